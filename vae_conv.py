"""Convolutional variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114).

    python vae_conv.py                            toy faces, no download, under three minutes on two cores
    python vae_conv.py --dataset cifar10          photographs of ten kinds of things
    python vae_conv.py --dataset celeba --z 128 --epochs 60 --resume

Every run leaves its pictures, numbers and networks in a folder of its own,
results/conv_<dataset>_z<z>/. results/README.md explains them.
"""

import math

import utils
from vae import keras, layers

# A flag overrides the constant of the same name: --batch-size 64 beats BATCH_SIZE. Where data sets differ, a constant
# is a dict. A data set's own entry ("mnist", "celeba", "folder" for your own images, ...) wins over that of its kind:
# "digits" are toy-digits, mnist and folders in MNIST's format, "photographs" all others.

# model
Z = {"toy-digits": 16, "toy-faces": 64, "digits": 20, "photographs": 128, "folder": 64}  # latent dimensions
FILTERS = (32, 64, 128)  # of the encoder's convolutions, each of which halves the sides; the decoder reverses them
HIDDEN = (512,)  # units of the dense layers between convolutions and latents
FULL_SIZE_FILTERS = 16  # of the decoder's maps at full size, for digits: sharper edges for little time
KERNEL = 4  # pixels a side; a multiple of the stride 2, so that transposed convolutions leave no checkerboard
ACTIVATION = "leaky_relu"  # without XLA, one pass over memory where SiLU takes half a dozen
LIKELIHOOD = {"digits": "bernoulli", "photographs": "gaussian"}  # of pixels; Gaussian ones share one learned sigma
LOG_STD_BOUND = 8.0  # the posterior's log-std stays within +-8, smoothly, so its exponential stays finite
LOG_STD_START = -2.0  # of Bernoulli runs: a posterior that starts narrow lets the decoder see its latents

# optimisation
EPOCHS = {"toy-digits": 20, "toy-faces": 4, "celeba": 40, "digits": 30, "photographs": 20}
BATCH_SIZE = 128
LEARNING_RATE = {"digits": 1e-3, "photographs": 1e-3}  # of AdamW; half of it learns photographs more slowly
WARMUP_STEPS = 200  # steps over which the rate rises from 0 to LEARNING_RATE
RATE_FALLS_AFTER = {"digits": None, "photographs": None}  # steps; then as 1 / sqrt(step). None: it stays constant
GRADIENT_CLIP = 100.0  # global norm, nats per image: roughly that of a typical step, so that no batch dominates
DECAY_PER_EPOCH = {"digits": 0.03, "photographs": 0.125}  # fraction by which weight decay shrinks weights per epoch
AVERAGE_POWER = 7.0  # results use weights averaged over about the last 1 / (7 + 1) of the run
BETA = 1.0  # weight of the KL term in training; 1 is the ELBO
KL_WARMUP_EPOCHS = 0.0  # epochs over which the KL weight rises from 0 to BETA; helps in long runs only
STEPS_PER_CALL = 4  # training steps in one compiled call: little overhead, and a progress bar that moves
XLA = False  # XLA's convolution gradients are about 50 times slower on a CPU
PRECISION = "fp32"  # bf16: convolutions in bfloat16, faster on a CPU that has instructions for it

# data
DATASET = "toy-faces"  # toy-digits, mnist, cifar10, cifar10-grey, celeba or a folder of images
MIRROR = {"digits": False, "photographs": True}  # mirror a random half of the training images
SHIFT = {"celeba": 2, "digits": 0, "photographs": 0}  # shift training images at random by up to this many pixels
BINARIZE = "none"  # dynamic or threshold: black-and-white pixels, for comparison with papers
SEED = 0
LIMIT = None  # use at most this many training images and this many test images
IMAGE_SIZE = {"celeba": 64, "folder": 64}  # pixels a side: 32, 64 or 128; the images of other sets have one size
DATA_DIR = "data"
OUT = "results"
NAME = None  # the run folder's name; None: conv_<dataset>_z<z>
STRATEGY = "auto"  # one, mirrored (all devices of this machine) or multiworker (all machines of TF_CONFIG)
TENSORBOARD = False  # write numbers and pictures for TensorBoard too


def downsampled(image):
    """Feature maps of images (B, H, W, C) in [0, 1]: (B, H/2, W/2, 32), (B, H/4, W/4, 64), (B, H/8, W/8, 128)."""
    maps = [layers.Rescaling(2.0, offset=-1.0)(image)]
    for filters in FILTERS:
        maps.append(layers.Conv2D(filters, KERNEL, 2, "same", activation=ACTIVATION)(maps[-1]))
    return maps[1:]


def upsampled(hidden, filters, size, activation=None, kernel_initializer="glorot_uniform"):
    """Feature maps (B, h, w, c) enlarged to twice their size, or one less a side where halving had rounded up.

    size: the height and width of the result, (B, *size, filters).
    """
    extra = [2 * have - want for have, want in zip(hidden.shape[1:3], size, strict=True)]
    enlarge = layers.Conv2DTranspose(
        filters, KERNEL, 2, "same", activation=activation, kernel_initializer=kernel_initializer
    )
    hidden = enlarge(hidden)
    # Not Conv2DTranspose's output_padding: Keras up to 3.12 forgets it when it saves or clones a network
    return layers.Cropping2D([(0, rows) for rows in extra])(hidden) if any(extra) else hidden


def build_encoder(image_shape, z, linear):
    """Images (B, H, W, C) in [0, 1] -> mean and log-std of q(z|x), side by side (B, 2z).

    With `linear`, a linear path is added to the network's output, which starts at 0. The path is set to probabilistic
    PCA and then frozen (see vae/ppca.py).
    """
    start = "zeros" if linear else "glorot_uniform"
    image = keras.Input(image_shape)
    hidden = layers.Flatten()(downsampled(image)[-1])  # (B, H/8 * W/8 * 128)
    for width in HIDDEN:
        hidden = layers.Dense(width, ACTIVATION)(hidden)  # (B, width)
    mean = layers.Dense(z, kernel_initializer=start, name="mean")(hidden)  # (B, z)
    if linear:
        mean = layers.Add()([mean, layers.Dense(z, name="linear_mean")(layers.Flatten()(image))])
    bias = keras.initializers.Constant(LOG_STD_START)
    log_std = layers.Dense(z, kernel_initializer=start, bias_initializer=bias, name="log_std")(hidden)  # (B, z)
    log_std = layers.Activation("tanh")(layers.Rescaling(1 / LOG_STD_BOUND)(log_std))
    log_std = layers.Rescaling(LOG_STD_BOUND)(log_std)
    return keras.Model(image, layers.Concatenate()([mean, log_std]), name="encoder")


def build_decoder(image_shape, z, linear):
    """Latents (B, z) -> pixel parameters (B, H, W, C): logits of Bernoulli, means of Gaussian pixels.

    With `linear`, convolutions look at the blurred image of the linear path, and the upsampling layers see at each
    size what these found (a U-net, Ronneberger et al. 2015, arXiv:1505.04597). What the blurred image lacks, such as
    edges, depends on its surroundings, and dense layers alone learn the layout of an image slowly. Without `linear`,
    logits come from maps at full size.
    """
    sizes = [image_shape[:2]]
    for _ in FILTERS:
        sizes.append([-(-side // 2) for side in sizes[-1]])
    latent = hidden = keras.Input((z,))
    for width in HIDDEN[::-1]:
        hidden = layers.Dense(width, ACTIVATION)(hidden)  # (B, width)
    hidden = layers.Dense(math.prod(sizes[-1]) * FILTERS[-1], ACTIVATION)(hidden)
    hidden = layers.Reshape((*sizes[-1], FILTERS[-1]))(hidden)  # (B, H/8, W/8, 128)
    if linear:
        blurred = layers.Dense(math.prod(image_shape), name="linear_pixels")(latent)
        blurred = layers.Reshape(image_shape)(blurred)  # (B, H, W, C)
        maps = downsampled(blurred)
        hidden = layers.Concatenate()([hidden, maps[-1]])
    for level in reversed(range(1, len(FILTERS))):
        hidden = upsampled(hidden, FILTERS[level - 1], sizes[level], activation=ACTIVATION)
        if linear:
            hidden = layers.Concatenate()([hidden, maps[level - 1]])
    if linear:
        pixels = upsampled(hidden, image_shape[2], sizes[0], kernel_initializer="zeros")
        pixels = layers.Add()([pixels, blurred])
    else:
        hidden = upsampled(hidden, FULL_SIZE_FILTERS, sizes[0], activation=ACTIVATION)  # (B, H, W, 16)
        pixels = layers.Conv2D(image_shape[2], 3, 1, "same")(hidden)
    return keras.Model(latent, pixels, name="decoder")


def main(argv=None):
    """Train as the constants and flags say; returns the content of metrics.json."""
    settings = utils.parse_settings(globals(), argv)
    with utils.on_devices(settings.strategy):
        data = utils.load_data(settings)
        keras.utils.set_random_seed(settings.seed)
        linear = settings.likelihood == "gaussian"  # probabilistic PCA is the closed-form start for Gaussian pixels
        encoder = build_encoder(data.image_shape, settings.z, linear)
        decoder = build_decoder(data.image_shape, settings.z, linear)
        return utils.train(encoder, decoder, data, settings)


if __name__ == "__main__":
    utils.launch(main)
