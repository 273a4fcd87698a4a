"""Latents ahead of training: shards of pictures in, shards of latents out (`raexla latents`), and training from them.

`identity` says what a latent depends on, `reading` decodes pictures in processes of their own, `folder` keeps what is
done, `run` encodes; `training` is what a Task asks. Nothing is imported here: a Task needs the last one only.
"""
