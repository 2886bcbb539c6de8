// Computes a Keras network: its layers in order, each from the outputs of earlier ones.
//
// A tensor is {data, shape}: a Float32Array, row by row with channels last, and [height, width, channels] or [length].
// A kernel holds whole numbers from -127 to 127; `scale` has what one step of each output channel is worth.

const ACTIVATIONS = {
  linear: x => x,
  relu: x => Math.max(x, 0),
  leaky_relu: x => x > 0 ? x : 0.2 * x, // Keras' slope
  elu: x => x > 0 ? x : Math.expm1(x),
  silu: x => x / (1 + Math.exp(-x)),
  softplus: x => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  sigmoid: x => 1 / (1 + Math.exp(-x)),
  tanh: Math.tanh,
};

const LAYERS = {
  Flatten: (layer, [x]) => ({data: x.data, shape: [x.data.length]}),

  Reshape: (layer, [x]) => ({data: x.data, shape: layer.shape}),

  Rescaling: (layer, [x]) => ({data: x.data.map(value => value * layer.factor + layer.offset), shape: x.shape}),

  Activation: (layer, [x]) => ({data: x.data.map(ACTIVATIONS[layer.activation]), shape: x.shape}),

  Add: (layer, inputs) => ({
    data: inputs[0].data.map((_, i) => inputs.reduce((sum, input) => sum + input.data[i], 0)),
    shape: inputs[0].shape,
  }),

  // Side by side along the last axis
  Concatenate(layer, inputs) {
    const widths = inputs.map(input => input.shape.at(-1));
    const width = widths.reduce((sum, own) => sum + own);
    const places = inputs[0].data.length / widths[0];
    const data = new Float32Array(places * width);
    let start = 0;
    inputs.forEach((input, k) => {
      for (let place = 0; place < places; place++)
        data.set(input.data.subarray(place * widths[k], (place + 1) * widths[k]), place * width + start);
      start += widths[k];
    });
    return {data, shape: [...inputs[0].shape.slice(0, -1), width]};
  },

  // crop: [[top, bottom], [left, right]]
  Cropping2D({crop: [[top, bottom], [left, right]]}, [x]) {
    const [height, width, channels] = x.shape;
    const shape = [height - top - bottom, width - left - right, channels], row = shape[1] * channels;
    const data = new Float32Array(shape[0] * row);
    for (let y = 0; y < shape[0]; y++) {
      const start = ((y + top) * width + left) * channels;
      data.set(x.data.subarray(start, start + row), y * row);
    }
    return {data, shape};
  },

  Dense(layer, [x]) {
    const data = new Float32Array(layer.scale.length);
    addProducts(data, 0, x.data, 0, x.data.length, layer.kernel, 0, data.length);
    return withBias(layer, data, [data.length]);
  },

  // kernel: (size, size, channels in, channels out); the border is padded with zeros
  Conv2D(layer, [x]) {
    const {kernel, size, stride} = layer, [height, width, channels] = x.shape, filters = layer.scale.length;
    const shape = [Math.ceil(height / stride), Math.ceil(width / stride), filters];
    const top = before((shape[0] - 1) * stride + size - height), left = before((shape[1] - 1) * stride + size - width);
    const data = new Float32Array(shape[0] * shape[1] * filters);
    for (let y = 0; y < shape[0]; y++) for (let x_ = 0; x_ < shape[1]; x_++)
      for (let ky = 0; ky < size; ky++) for (let kx = 0; kx < size; kx++) {
        const fromY = y * stride + ky - top, fromX = x_ * stride + kx - left;
        if (fromY < 0 || fromY >= height || fromX < 0 || fromX >= width) continue;
        addProducts(data, (y * shape[1] + x_) * filters, x.data, (fromY * width + fromX) * channels, channels,
          kernel, (ky * size + kx) * channels * filters, filters);
      }
    return withBias(layer, data, shape);
  },

  // The same kernel the other way round: each place of the input spreads over size x size places of the output
  Conv2DTranspose(layer, [x]) {
    const {kernel, size, stride} = layer, [height, width, channels] = x.shape, filters = layer.scale.length;
    const shape = [height * stride, width * stride, filters], margin = before(size - stride);
    const data = new Float32Array(shape[0] * shape[1] * filters);
    for (let y = 0; y < height; y++) for (let x_ = 0; x_ < width; x_++)
      for (let ky = 0; ky < size; ky++) for (let kx = 0; kx < size; kx++) {
        const toY = y * stride + ky - margin, toX = x_ * stride + kx - margin;
        if (toY < 0 || toY >= shape[0] || toX < 0 || toX >= shape[1]) continue;
        addProducts(data, (toY * shape[1] + toX) * filters, x.data, (y * width + x_) * channels, channels,
          kernel, (ky * size + kx) * channels * filters, filters);
      }
    return withBias(layer, data, shape);
  },
};

// Padding on the first side, of a total that Keras shares out as evenly as it can
const before = total => Math.floor(Math.max(total, 0) / 2);

// Add the products of `count` inputs with the rows of a matrix (count, width) to `width` outputs
function addProducts(out, outStart, x, xStart, count, matrix, matrixStart, width) {
  for (let i = 0; i < count; i++) {
    const value = x[xStart + i], row = matrixStart + i * width;
    if (value !== 0) for (let j = 0; j < width; j++) out[outStart + j] += value * matrix[row + j];
  }
}

// From products with whole numbers to the output of a layer: scale, bias and activation of each channel
function withBias({scale, bias, activation}, data, shape) {
  const channels = scale.length, apply = ACTIVATIONS[activation];
  for (let i = 0; i < data.length; i++) data[i] = apply(data[i] * scale[i % channels] + bias[i % channels]);
  return {data, shape};
}

// The output of a network for one input, both flat
function compute(network, input) {
  const values = [{data: Float32Array.from(input), shape: network.input_shape}];
  for (const layer of network.layers) values.push(LAYERS[layer.kind](layer, layer.inputs.map(i => values[i])));
  return values.at(-1).data;
}
