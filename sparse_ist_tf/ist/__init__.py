"""Independent Subnetwork Training of the head: the third room."""
