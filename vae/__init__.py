"""The parts that the scripts are built of. TensorFlow is loaded here, once and quietly, whichever part comes first.

The scripts and utils.py write `from vae import keras`, so that this file runs before Keras does.
"""

from vae.startup import loading_packages

with loading_packages():
    import keras
    import matplotlib
    import numpy as np
    import PIL
    import tensorflow as tf
    from keras import layers

keras.config.set_image_data_format("channels_last")  # whatever ~/.keras/keras.json says
keras.config.set_floatx("float32")
tf.get_logger().setLevel("ERROR")  # its advice on retracing means nothing to a user

__all__ = ["PIL", "keras", "layers", "matplotlib", "np", "tf"]
