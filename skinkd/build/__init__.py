"""From a resolved configuration or a stored run to objects: data, networks, methods, teachers."""
