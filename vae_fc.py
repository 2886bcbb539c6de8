"""Fully connected variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114).

    python vae_fc.py                              toy digits, no download, under a minute on two cores
    python vae_fc.py --dataset mnist --z 2        a latent plane of handwritten digits
    python vae_fc.py --dataset cifar10 --epochs 12

Every run leaves its pictures, numbers and networks in a folder of its own,
results/fc_<dataset>_z<z>/. results/README.md explains them.
"""

import math

import utils
from vae import keras, layers

# A flag overrides the constant of the same name: --batch-size 64 beats BATCH_SIZE. Where data sets differ, a constant
# is a dict. A data set's own entry ("mnist", "celeba", "folder" for your own images, ...) wins over that of its kind:
# "digits" are toy-digits, mnist and folders in MNIST's format, "photographs" all others.

# model
Z = {"toy-digits": 2, "toy-faces": 32, "digits": 20, "photographs": 128, "folder": 64}  # latent dimensions
HIDDEN = (500, 500, 500)  # units of the encoder's layers; reversed in the decoder
ACTIVATION = "silu"
LIKELIHOOD = {"digits": "bernoulli", "photographs": "gaussian"}  # of pixels; Gaussian ones share one learned sigma
LOG_STD_BOUND = 8.0  # the posterior's log-std stays within +-8, smoothly, so its exponential stays finite
LOG_STD_START = -2.0  # of Bernoulli runs: a posterior that starts narrow lets the decoder see its latents

# optimisation
EPOCHS = {"toy-digits": 44, "digits": 30, "photographs": 20}
BATCH_SIZE = 128
LEARNING_RATE = {"digits": 3e-3, "photographs": 5e-4}  # of AdamW; photographs need the smaller one
WARMUP_STEPS = 200  # steps over which the rate rises from 0 to LEARNING_RATE
RATE_FALLS_AFTER = {"digits": 500, "photographs": None}  # steps; then as 1 / sqrt(step)
GRADIENT_CLIP = 100.0  # global norm, nats per image: roughly that of a typical step, so that no batch dominates
DECAY_PER_EPOCH = {"digits": 0.03, "photographs": 0.125}  # fraction by which weight decay shrinks weights per epoch
AVERAGE_POWER = 7.0  # results use weights averaged over about the last 1 / (7 + 1) of the run
BETA = 1.0  # weight of the KL term in training; 1 is the ELBO
KL_WARMUP_EPOCHS = 0.0  # epochs over which the KL weight rises from 0 to BETA; helps in long runs only
STEPS_PER_CALL = 32  # training steps in one compiled call: little overhead, and a progress bar that moves
XLA = True  # compile whole runs of steps as one program: pays for dense layers on CPU and GPU
PRECISION = "fp32"  # bf16: matrix products in bfloat16, which gain nothing for dense layers on a CPU

# data
DATASET = "toy-digits"  # toy-faces, mnist, cifar10, cifar10-grey, celeba or a folder of images
MIRROR = {"digits": False, "photographs": True}  # mirror a random half of the training images
SHIFT = {"digits": 0, "photographs": 0}  # shift training images at random by up to this many pixels
BINARIZE = "none"  # dynamic or threshold: black-and-white pixels, for comparison with papers
SEED = 0
LIMIT = None  # use at most this many training images and this many test images
IMAGE_SIZE = {"celeba": 64, "folder": 64}  # pixels a side: 32, 64 or 128; the images of other sets have one size
DATA_DIR = "data"
OUT = "results"
NAME = None  # the run folder's name; None: fc_<dataset>_z<z>
STRATEGY = "auto"  # one, mirrored (all devices of this machine) or multiworker (all machines of TF_CONFIG)
TENSORBOARD = False  # write numbers and pictures for TensorBoard too


def residual_layers(hidden, widths):
    """Dense layers with residual connections where widths allow (He et al. 2016, arXiv:1512.03385).

    hidden: (B, n) -> (B, widths[-1]).

    Only the decoder has them. There they keep more latent units active and lower the loss by several nats; in the
    encoder they keep still more units active, but the loss is no lower.
    """
    for width in widths:
        layer = layers.Dense(width, ACTIVATION)(hidden)  # (B, width)
        hidden = layers.Add()([hidden, layer]) if hidden.shape[-1] == width else layer
    return hidden


def code_layer(latent, width):
    """A dense layer that sees short codes well from the start: (B, z) -> (B, width).

    The size of its first weights depends on z alone (LeCun et al. 1998). Keras' default, Glorot's, depends on the width
    too, and 500 units would see next to nothing of two numbers. The first biases differ, so that the units bend all
    over the plane of codes. At 0, all would bend at the origin.
    """
    biases = keras.initializers.RandomUniform(-1, 1)
    return layers.Dense(width, ACTIVATION, kernel_initializer="lecun_uniform", bias_initializer=biases)(latent)


def build_encoder(image_shape, z, linear):
    """Images (B, H, W, C) in [0, 1] -> mean and log-std of q(z|x), side by side (B, 2z).

    With `linear`, a linear path is added to the network's output, which starts at 0. The path is set to probabilistic
    PCA and then frozen (see vae/ppca.py).
    """
    start = "zeros" if linear else "glorot_uniform"
    image = keras.Input(image_shape)
    pixels = layers.Flatten()(image)  # (B, H * W * C)
    hidden = layers.Rescaling(2.0, offset=-1.0)(pixels)
    for width in HIDDEN:
        hidden = layers.Dense(width, ACTIVATION)(hidden)  # (B, width)
    mean = layers.Dense(z, kernel_initializer=start, name="mean")(hidden)  # (B, z)
    if linear:
        mean = layers.Add()([mean, layers.Dense(z, name="linear_mean")(pixels)])
    bias = keras.initializers.Constant(LOG_STD_START)
    log_std = layers.Dense(z, kernel_initializer=start, bias_initializer=bias, name="log_std")(hidden)  # (B, z)
    log_std = layers.Activation("tanh")(layers.Rescaling(1 / LOG_STD_BOUND)(log_std))
    log_std = layers.Rescaling(LOG_STD_BOUND)(log_std)
    return keras.Model(image, layers.Concatenate()([mean, log_std]), name="encoder")


def build_decoder(image_shape, z, linear):
    """Latents (B, z) -> pixel parameters (B, H, W, C): logits of Bernoulli, means of Gaussian pixels.

    With `linear`, a linear path is added to the network's output, which starts at 0. The path is set to probabilistic
    PCA and then frozen (see vae/ppca.py).
    """
    size = math.prod(image_shape)
    latent = keras.Input((z,))
    hidden = residual_layers(code_layer(latent, HIDDEN[-1]), HIDDEN[-2::-1])  # (B, HIDDEN[0])
    start = "zeros" if linear else "glorot_uniform"
    pixels = layers.Dense(size, kernel_initializer=start)(hidden)  # (B, H * W * C)
    if linear:
        pixels = layers.Add()([pixels, layers.Dense(size, name="linear_pixels")(latent)])
    return keras.Model(latent, layers.Reshape(image_shape)(pixels), name="decoder")


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
