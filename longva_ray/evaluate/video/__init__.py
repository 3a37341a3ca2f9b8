"""The needle in a haystack of video frames (`vniah`)."""
