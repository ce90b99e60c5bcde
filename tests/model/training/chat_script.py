from datasets import Dataset
from PIL import Image

from amvl_model import AMVLTrainer, AMVLTrainingArguments

colours = ["red", "green", "blue", "black"]
turns = [[{"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": c}] for c in colours]
rows = [{"messages": turn, "images": [Image.new("RGB", (56, 56), c)]} for turn, c in zip(turns, colours, strict=True)]
args = AMVLTrainingArguments("out", beta=0.01, gamma=0.001, max_steps=3, num_latents=2, latent_dim=4)
trainer = AMVLTrainer(model="tiny", args=args, train_dataset=Dataset.from_list(rows))
trainer.train()
trainer.save_model()
