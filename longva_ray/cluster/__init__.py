"""Ray itself: graphs of Ray Data (`graph`, `tasks`), rings of actors (`gang`), and jobs (`job`)."""
