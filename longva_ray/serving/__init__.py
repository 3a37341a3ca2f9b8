"""The Ray Serve application: `app` builds it, `api` holds its OpenAI-shaped messages, `replicas`
does the work."""
