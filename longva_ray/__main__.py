"""`python -m longva_ray` is the `longva` command."""

from longva_ray.cli import main

if __name__ == "__main__":
    main()
