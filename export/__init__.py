"""From a finished run to .tflite files that are proven before they are kept: the fourth room."""
