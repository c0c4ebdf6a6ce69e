"""The model: the files it is made of, and how it turns a canvas into a picture.

Modules without torch:
variants   named variants, as data
sources    which files a variant is made of, fingerprints, licences
places     local folders, S3 prefixes and the model hub; hashes
dnn        networks that OpenCV runs
onnx       inputs and outputs of an ONNX file
saliency   salient-object networks: U-2-Net and others of its form
people     MediaPipe's networks for people
shipped/   weights that come with this package

Modules with torch:
weights    files on a node: fetched, checked by SHA-256, loaded strictly
keymap     checkpoint layouts of other projects
toy        random weights in the real classes
text       prompts → embeddings
adapters   LoRA adapters of one transformer
sampling   flow matching on packed latents; pure
speed      compiled blocks, and the best attention of a machine
one_pass   what all steps of a picture share, made once
compile_cache  compiled code, kept on a node
fast_path  shortcuts that change pictures: extrapolated steps, matrices in fp8
ace        VAE, denoise loop, and decoding to pixels
fit        chooses what of a model stays on its device
residence  brings the other parts when they work
faults     recognises device errors
vision     small models that look at pictures
"""
