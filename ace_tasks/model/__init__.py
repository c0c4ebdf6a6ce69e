"""The model: which files it is made of, and how a canvas becomes a picture.

Without torch:
variants   named variants, as data
sources    which files a variant is made of, fingerprints, licences
places     a folder, an S3 prefix, the model hub; hashes
dnn        networks that OpenCV runs
onnx       what an ONNX file says of its inputs and outputs
saliency   what stands out in a picture: U-2-Net, and others of its form
people     MediaPipe's networks for people
shipped/   weights that come with this package

With torch:
weights    files on a node: fetched, checked by SHA-256, loaded strictly
keymap     other projects' checkpoint layouts
toy        random weights in the real classes
text       prompts → embeddings
adapters   LoRA adapters of one transformer
sampling   flow matching on packed latents; pure
ace        VAE, the denoise loop, and back to pixels
residence  where parts of a model lie while they do not work
faults     what a sick device says
vision     small models that look at pictures
"""
