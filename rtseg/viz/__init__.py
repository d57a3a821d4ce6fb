"""Pictures of everything the workbench knows: networks, masks, latencies, curves, searches, data."""
