# %% Load the shipped model; it knows pictures such as those of data/examples, and sentences about a key
import matplotlib.pyplot as plt
from PIL import Image

import melfusion

pipe = melfusion.load()

# %% Generate a clip, and listen to example.wav
picture, prompt = "data/examples/sea-night-clear.png", "a tune in A minor"
music = pipe(prompt, picture, seed=0)
music.save("example.wav")

# %% Plot the picture and the spectrogram
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3), width_ratios=(1, 3), layout="constrained")
left.imshow(Image.open(picture))
left.set(title="the picture", xticks=[], yticks=[])
seconds, bins = music.audios.shape[-1] / music.sample_rate_hz, music.log_mels.shape[-1]
shown = right.imshow(music.log_mels[0].T, origin="lower", aspect="auto", extent=(0, seconds, 0, bins), cmap="magma")
right.set(title=f"{prompt}, seed {music.seeds[0]}", xlabel="time, s", ylabel="mel bin")
figure.colorbar(shown, ax=right, label="log magnitude")
figure.savefig("example.png", dpi=120)
