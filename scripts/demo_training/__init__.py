"""How the small Tempo of the demo is trained; `scripts/train_demo.py` is the way in."""
