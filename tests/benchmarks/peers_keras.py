"""The same networks and training in plain Keras: a model with its own train_step, tf.data, fit."""

from common import tf

from vae import keras

NAMES = ("Keras fit",)


class Model(keras.Model):
    """An encoder and a decoder, trained on the ELBO."""

    def __init__(self, vae):
        super().__init__()
        self.encoder, self.decoder, self.vae = vae.encoder, vae.decoder, vae
        self.nats = keras.metrics.Mean(name="nats")

    def train_step(self, images):
        """Train on one batch, the sigma of Gaussian pixels included."""
        x = tf.cast(images, tf.float32) / 255
        with tf.GradientTape() as tape:
            recon, kl = self.vae.elbo_terms(x, tf.random.normal((tf.shape(x)[0], self.decoder.input_shape[-1])))
            loss = tf.reduce_mean(recon + kl)
        variables = self.vae.variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self.nats.update_state(loss)
        return {"nats": self.nats.result()}


def epochs(case, images, _, chosen):
    """{name: function of the epoch's number that trains one epoch and returns its mean loss}."""
    if "Keras fit" not in chosen:
        return {}
    model = Model(case.vae())
    optimizer = keras.optimizers.Adam(case.learning_rate)
    optimizer.build(model.vae.variables)
    model.compile(optimizer, jit_compile=False)
    source = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images)).batch(case.batch, drop_remainder=True)
    source = source.prefetch(tf.data.AUTOTUNE)
    return {"Keras fit": lambda _: model.fit(source, verbose=0).history["nats"][-1]}
