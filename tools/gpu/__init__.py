"""The figures of one NVIDIA card (tools/gpu.sh): `python3 -m gpu --out FOLDER`, with tools/ on Python's path."""
