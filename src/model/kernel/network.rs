//! ResNet-18 (He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015) on the kernels.

use std::collections::HashMap;
use std::sync::Mutex;

use candle_core::{DType, Result, Tensor};

use super::Forward;
use super::conv::{Conv, Data, Scratch, Shape};
use super::memory::{Buffer, Shared};
use super::pack::{Filters, fold};
use super::plan::{Algorithm, Plan};
use super::simd::{Kernel, Simd};
use super::stem::Stem;
use super::threads::Threads;

/// Channels after the stem; each of the four stages after the first doubles them and halves the side.
const WIDTH: usize = 64;
const STAGES: usize = 4;
/// Channels of the last stage, and floats of zeros behind every activation.
const FEATURES: usize = WIDTH << (STAGES - 1);

/// Pixels of input that one pass computes at once, in images of 224: beyond that the activations no longer fit the caches, and more only costs memory.
const BATCH_PIXELS: usize = 8 * 224 * 224;
/// Most images in one pass.
const MOST_IMAGES: usize = 128;

/// Two convolutions around a shortcut.
struct Block {
    first: Conv,
    second: Conv,
    /// The 1x1 convolution of a shortcut that changes shape.
    shortcut: Option<Conv>,
}

impl Block {
    /// In the order they run.
    fn convs(&self) -> impl Iterator<Item = &Conv> {
        [&self.first].into_iter().chain(&self.shortcut).chain([&self.second])
    }
}

/// The network for square images of one side.
pub(super) struct Network<S: Simd> {
    simd: S,
    side: usize,
    classes: usize,
    stem: Stem,
    blocks: Vec<Block>,
    last: Conv,
    workspace: Mutex<Workspace>,
}

/// What a call needs and the next can use again.
struct Workspace {
    threads: Threads,
    /// Images that the rest is planned for.
    batch: usize,
    /// One for each convolution, in the order they run.
    plans: Vec<Plan>,
    /// Input, middle and shortcut of a block; each ends in [`FEATURES`] zeros.
    activations: [Buffer; 3],
    /// `[batch][FEATURES]`
    pooled: Buffer,
    shared: Buffer,
    private: Buffer,
    /// Floats of `private` for each thread.
    private_len: usize,
}

/// Torchvision's tensors by name.
type Weights = HashMap<String, Tensor>;

/// The tensor `name`, as `f32`, if it has this shape.
fn tensor(weights: &Weights, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let Some(tensor) = weights.get(name) else { candle_core::bail!("the weights have no tensor {name}") };
    if tensor.dims() != shape {
        candle_core::bail!("{name} is {:?}, but ResNet-18's is {shape:?}", tensor.dims());
    }
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The convolution `conv` with the batch norm `norm` behind it.
fn folded(weights: &Weights, conv: &str, norm: &str, outputs: usize, inputs: usize, kernel: usize) -> Result<Filters> {
    let norm = |part: &str| tensor(weights, &format!("{norm}.{part}"), &[outputs]);
    let (scale, bias) = fold(&norm("weight")?, &norm("bias")?, &norm("running_mean")?, &norm("running_var")?);
    Ok(Filters {
        weights: tensor(weights, &format!("{conv}.weight"), &[outputs, inputs, kernel, kernel])?,
        outputs,
        inputs,
        taps: kernel * kernel,
        scale: Some(scale),
        bias,
    })
}

impl<S: Simd> Network<S> {
    /// Folds and packs `weights`.
    pub(super) fn new(simd: S, weights: &Weights, side: usize, threads: usize) -> Result<Self> {
        let mut threads = Threads::new(threads)?;
        let stem = Stem::new::<S>(side, &folded(weights, "conv1", "bn1", WIDTH, 3, 7)?, &mut threads);
        let mut blocks = Vec::new();
        let (mut inputs, mut side_in) = (WIDTH, stem.pooled());
        for stage in 0..STAGES {
            let outputs = WIDTH << stage;
            for block in 0..2 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let name = format!("layer{}.{block}", stage + 1);
                let mut conv = |conv: &str,
                                norm: &str,
                                inputs: usize,
                                kernel: usize,
                                stride: usize,
                                side: usize|
                 -> Result<Conv> {
                    let filters =
                        folded(weights, &format!("{name}.{conv}"), &format!("{name}.{norm}"), outputs, inputs, kernel)?;
                    let shape =
                        Shape { inputs, outputs, kernel, stride, padding: kernel / 2, height: side, width: side };
                    Ok(Conv::new::<S>(shape, &filters, &mut threads))
                };
                let first = conv("conv1", "bn1", inputs, 3, stride, side_in)?;
                let side_out = first.shape.output_height();
                let second = conv("conv2", "bn2", outputs, 3, 1, side_out)?;
                let shortcut = if stride == 2 {
                    Some(conv("downsample.0", "downsample.1", inputs, 1, stride, side_in)?)
                } else {
                    None
                };
                blocks.push(Block { first, second, shortcut });
                (inputs, side_in) = (outputs, side_out);
            }
        }
        let classes = weights.get("fc.bias").map_or(0, Tensor::elem_count);
        let filters = Filters {
            weights: tensor(weights, "fc.weight", &[classes, FEATURES])?,
            outputs: classes,
            inputs: FEATURES,
            taps: 1,
            scale: None,
            bias: tensor(weights, "fc.bias", &[classes])?,
        };
        let shape = Shape { inputs: FEATURES, outputs: classes, kernel: 1, stride: 1, padding: 0, height: 1, width: 1 };
        let last = Conv::new::<S>(shape, &filters, &mut threads);
        let workspace = Mutex::new(Workspace::new(threads));
        Ok(Self { simd, side, classes, stem, blocks, last, workspace })
    }

    /// Makes the workspace ready for `batch` images.
    fn plan(&self, workspace: &mut Workspace, batch: usize) {
        if workspace.batch == batch {
            return;
        }
        let threads = workspace.threads.count();
        let activation = batch * self.stem.pooled() * self.stem.pooled() * WIDTH;
        let convs = self.blocks.iter().flat_map(Block::convs).chain([&self.last]);
        workspace.plans.clear();
        workspace.plans.extend(convs.map(|conv| {
            let algorithm = Algorithm::choose(&conv.shape, batch, S::LANES);
            Plan::new::<S>(algorithm, &conv.shape, batch, activation, threads)
        }));
        let most = |floats: fn(&Plan) -> usize| workspace.plans.iter().map(floats).max().unwrap_or(0);
        workspace.private_len = most(|plan| plan.private).max(self.stem.scratch::<S>()).next_multiple_of(16);
        grow(&mut workspace.shared, most(|plan| plan.shared));
        grow(&mut workspace.private, workspace.private_len * threads);
        grow(&mut workspace.pooled, batch * FEATURES);
        for buffer in &mut workspace.activations {
            grow(buffer, activation + FEATURES);
            buffer[activation..activation + FEATURES].fill(0.0);
        }
        workspace.batch = batch;
    }

    /// Runs as many images as the workspace is planned for.
    fn pass(&self, workspace: &mut Workspace, input: &[f32], output: &mut [f32]) {
        let Workspace { threads, batch, plans, activations, pooled, shared, private, private_len } = workspace;
        let batch = *batch;
        let [mut x, y, mut z] = activations.each_mut().map(|buffer| Shared(buffer.as_mut_ptr()));
        let scratch = Scratch {
            shared: Shared(shared.as_mut_ptr()),
            private: Shared(private.as_mut_ptr()),
            private_len: *private_len,
        };
        let none = Shared(std::ptr::null_mut());
        let mut plans = plans.iter();
        let mut run = |threads: &mut Threads, conv: &Conv, input, residual, output, relu| {
            let plan = plans.next().expect("one plan for each convolution");
            // SAFETY: the plans were made in this order for these shapes, this batch and these threads; the buffers hold the largest.
            unsafe { conv.run(self.simd, threads, plan, scratch, Data { batch, input, residual, output, relu }) };
        };
        // SAFETY: as above.
        unsafe { self.stem.run(self.simd, threads, scratch, batch, input, x) };
        for block in &self.blocks {
            run(threads, &block.first, x, none, y, true);
            // The sum replaces the shortcut's side of it.
            if let Some(shortcut) = &block.shortcut {
                run(threads, shortcut, x, none, z, false);
                std::mem::swap(&mut x, &mut z);
            }
            run(threads, &block.second, y, x, x, true);
        }
        let pixels = self.blocks.last().map_or(0, |block| block.second.shape.output_len()) / FEATURES;
        // SAFETY: the last block has written `batch` images of as many pixels; `pooled` holds a row for each.
        unsafe { self.simd.launch(Average { from: x.get(), pixels, batch, to: pooled.as_mut_ptr() }) };
        run(threads, &self.last, Shared(pooled.as_mut_ptr()), none, Shared(output.as_mut_ptr()), false);
    }
}

/// The distinct convolutions behind the stem for images of `side`.
pub(super) fn shapes(side: usize) -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut side = side.div_ceil(2).div_ceil(2);
    for stage in 0..STAGES {
        let outputs = WIDTH << stage;
        if stage > 0 {
            let inputs = outputs / 2;
            for kernel in [3, 1] {
                shapes.push(Shape {
                    inputs,
                    outputs,
                    kernel,
                    stride: 2,
                    padding: kernel / 2,
                    height: side,
                    width: side,
                });
            }
            side = side.div_ceil(2);
        }
        shapes.push(Shape { inputs: outputs, outputs, kernel: 3, stride: 1, padding: 1, height: side, width: side });
    }
    shapes
}

/// Replaces a buffer that is too small.
fn grow(buffer: &mut Buffer, len: usize) {
    if buffer.len() < len {
        *buffer = Buffer::zeroed(len);
    }
}

impl Workspace {
    fn new(threads: Threads) -> Self {
        let empty = || Buffer::zeroed(0);
        Self {
            threads,
            batch: 0,
            plans: Vec::new(),
            activations: [empty(), empty(), empty()],
            pooled: empty(),
            shared: empty(),
            private: empty(),
            private_len: 0,
        }
    }
}

impl<S: Simd> Forward for Network<S> {
    fn classes(&self) -> usize {
        self.classes
    }

    fn forward(&self, batch: usize, input: &[f32], output: &mut [f32]) {
        // A poisoned workspace holds only what the next call overwrites.
        let mut workspace = self.workspace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let image = self.side * self.side * 3;
        let most = (BATCH_PIXELS / (self.side * self.side)).clamp(1, MOST_IMAGES);
        // As equal as can be: 9 images are 5 + 4, so that none is alone.
        let (passes, mut first) = (batch.div_ceil(most), 0);
        for pass in 0..passes {
            let images = first..first + batch / passes + usize::from(pass < batch % passes);
            self.plan(&mut workspace, images.len());
            self.pass(
                &mut workspace,
                &input[images.start * image..images.end * image],
                &mut output[images.start * self.classes..images.end * self.classes],
            );
            first = images.end;
        }
    }
}

/// The mean over all pixels of each channel.
struct Average {
    /// `[batch][pixels][FEATURES]`
    from: *const f32,
    pixels: usize,
    batch: usize,
    /// `[batch][FEATURES]`
    to: *mut f32,
}

impl Kernel for Average {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(1.0 / self.pixels as f32);
        for image in 0..self.batch {
            for c in (0..FEATURES).step_by(S::LANES) {
                // SAFETY: the fields say what the pointers hold.
                unsafe {
                    let mut sum = simd.splat(0.0);
                    for pixel in image * self.pixels..(image + 1) * self.pixels {
                        sum = simd.add(sum, simd.load(self.from.add(pixel * FEATURES + c)));
                    }
                    simd.store(self.to.add(image * FEATURES + c), simd.mul(sum, scale));
                }
            }
        }
    }
}
