//! ResNet-18 (He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015) on the kernels.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use candle_core::{DType, Result, Tensor};

use super::Forward;
use super::conv::{Conv, Data, Scratch, Shape};
use super::memory::{Buffer, Shared};
use super::pack::{Filters, fold};
use super::plan::{Algorithm, Plan};
use super::simd::{Kernel, Simd};
use super::stem::{CHANNELS, Stem};
use super::threads::Threads;

/// Channels after the stem; each of the four stages after the first doubles them and halves the side.
const WIDTH: usize = 64;
const STAGES: usize = 4;
/// Channels of the last stage, and floats of zeros behind every activation.
const FEATURES: usize = WIDTH << (STAGES - 1);

/// Pixels of input that the last stage computes at once, in images of 224: more would only cost memory.
const BATCH_PIXELS: usize = 8 * 224 * 224;
/// Most images in one pass.
const MOST_IMAGES: usize = 128;
/// Floats of output that another stage computes at once for each thread: what it writes, the next one reads from the second-level cache.
const MOST_AT_ONCE: usize = 256 << 10;

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

/// Two blocks; every stage but the first halves the side.
struct Stage {
    blocks: [Block; 2],
}

impl Stage {
    fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.blocks.iter().flat_map(Block::convs)
    }

    /// Shape of its last convolution, and of its output.
    fn shape(&self) -> &Shape {
        &self.blocks[1].second.shape
    }
}

/// The network for square images of one side.
pub(super) struct Network<S: Simd> {
    simd: S,
    side: usize,
    classes: usize,
    stem: Stem,
    stages: Vec<Stage>,
    last: Conv,
    workspace: Mutex<Workspace>,
}

/// What a call needs and the next can use again.
struct Workspace {
    threads: Threads,
    /// Images that the rest is planned for.
    batch: usize,
    /// Most images that each stage computes at once.
    at_once: [usize; STAGES],
    /// By stage (the last layer is one more) and images at once: one for each convolution, in the order they run.
    plans: HashMap<(usize, usize), Vec<Plan>>,
    /// Between the convolutions of a block. All activations are of one length and end in [`FEATURES`] zeros.
    middle: Buffer,
    /// What a block without a shortcut starts from, and what the shortcut of one with it gives.
    sum: Buffer,
    /// Outputs of the stages, of as many images as the next computes at once.
    outputs: [Buffer; STAGES],
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
        let mut stages = Vec::new();
        let (mut inputs, mut side_in) = (WIDTH, stem.pooled());
        for stage in 0..STAGES {
            let outputs = WIDTH << stage;
            let mut block = |block: usize| -> Result<Block> {
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
                (inputs, side_in) = (outputs, side_out);
                Ok(Block { first, second, shortcut })
            };
            stages.push(Stage { blocks: [block(0)?, block(1)?] });
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
        Ok(Self { simd, side, classes, stem, stages, last, workspace })
    }

    /// Makes the workspace ready for `batch` images.
    fn plan(&self, workspace: &mut Workspace, batch: usize) {
        if workspace.batch == batch {
            return;
        }
        let threads = workspace.threads.count();
        let output_len = |stage: usize| self.stages[stage].shape().output_len();
        let at_once = std::array::from_fn(|stage| {
            let most = if stage == STAGES - 1 { batch } else { threads * MOST_AT_ONCE / output_len(stage) };
            most.clamp(1, batch)
        });
        workspace.at_once = at_once;
        let activation = (0..STAGES)
            .map(|stage| at_once.get(stage + 1).unwrap_or(&batch).max(&at_once[stage]) * output_len(stage))
            .max()
            .unwrap_or(0);
        for buffer in [&mut workspace.middle, &mut workspace.sum].into_iter().chain(&mut workspace.outputs) {
            grow(buffer, activation + FEATURES);
            buffer[activation..activation + FEATURES].fill(0.0);
        }
        let plan = |conv: &Conv, images: usize| {
            let algorithm = Algorithm::choose(&conv.shape, images, S::LANES);
            Plan::new::<S>(algorithm, &conv.shape, images, activation, threads)
        };
        workspace.plans.clear();
        let mut sizes = vec![batch];
        for stage in (0..STAGES).rev() {
            let parts = sizes.iter().flat_map(|&size| even_parts(0..size, at_once[stage]));
            sizes = parts.map(|part| part.len()).collect();
            sizes.sort_unstable();
            sizes.dedup();
            for &images in &sizes {
                let plans = self.stages[stage].convs().map(|conv| plan(conv, images)).collect();
                workspace.plans.insert((stage, images), plans);
            }
        }
        workspace.plans.insert((STAGES, batch), vec![plan(&self.last, batch)]);
        let most = |floats: fn(&Plan) -> usize| workspace.plans.values().flatten().map(floats).max().unwrap_or(0);
        workspace.private_len = most(|plan| plan.private).max(self.stem.scratch::<S>()).next_multiple_of(16);
        grow(&mut workspace.shared, most(|plan| plan.shared));
        grow(&mut workspace.private, workspace.private_len * threads);
        grow(&mut workspace.pooled, batch * FEATURES);
        workspace.batch = batch;
    }

    /// Runs as many images as the workspace is planned for.
    fn pass(&self, workspace: &mut Workspace, input: &[f32], output: &mut [f32]) {
        let batch = workspace.batch;
        let mut pass = Pass {
            network: self,
            scratch: Scratch {
                shared: Shared(workspace.shared.as_mut_ptr()),
                private: Shared(workspace.private.as_mut_ptr()),
                private_len: workspace.private_len,
            },
            threads: &mut workspace.threads,
            at_once: workspace.at_once,
            plans: &workspace.plans,
            input,
            middle: Shared(workspace.middle.as_mut_ptr()),
            sum: Shared(workspace.sum.as_mut_ptr()),
            outputs: workspace.outputs.each_mut().map(|buffer| Shared(buffer.as_mut_ptr())),
        };
        // SAFETY: the workspace is planned for this batch.
        unsafe { pass.stage(STAGES - 1, 0..batch) };
        let (from, to) = (pass.outputs[STAGES - 1], Shared(workspace.pooled.as_mut_ptr()));
        let pixels = self.stages[STAGES - 1].shape().output_len() / FEATURES;
        // SAFETY: the last stage has written `batch` images of as many pixels; `pooled` holds a row for each.
        unsafe { self.simd.launch(Average { from: from.get(), pixels, batch, to: to.get() }) };
        let data = Data { batch, input: to, residual: NONE, output: Shared(output.as_mut_ptr()), relu: false };
        // SAFETY: the plan was made for this layer and batch.
        unsafe { self.last.run(self.simd, pass.threads, &pass.plans[&(STAGES, batch)][0], pass.scratch, data) };
    }
}

/// No residual.
const NONE: Shared<f32> = Shared(std::ptr::null_mut());

/// One pass: each stage asks the one before for as many images as it computes at once, so that activations are read while they are still in a cache
/// (depth-first scheduling).
struct Pass<'a, S: Simd> {
    network: &'a Network<S>,
    threads: &'a mut Threads,
    scratch: Scratch,
    at_once: [usize; STAGES],
    plans: &'a HashMap<(usize, usize), Vec<Plan>>,
    /// `[batch][side][side][3]`
    input: &'a [f32],
    middle: Shared<f32>,
    sum: Shared<f32>,
    outputs: [Shared<f32>; STAGES],
}

impl<S: Simd> Pass<'_, S> {
    /// Computes the output of a stage for some of the images.
    ///
    /// # Safety
    /// The workspace is planned for parts of this size.
    unsafe fn stage(&mut self, index: usize, images: Range<usize>) {
        let Network { simd, side, stem, stages, .. } = self.network;
        let stage = &stages[index];
        for part in even_parts(images.clone(), self.at_once[index]) {
            let batch = part.len();
            let from = match index.checked_sub(1) {
                // SAFETY: the buffers hold the largest part.
                None => unsafe {
                    let input = &self.input[part.start * side * side * CHANNELS..];
                    stem.run(*simd, self.threads, self.scratch, batch, input, self.sum);
                    self.sum
                },
                Some(before) => {
                    // SAFETY: as for this stage.
                    unsafe { self.stage(before, part.clone()) };
                    self.outputs[before]
                }
            };
            let to = Shared(
                self.outputs[index].get().wrapping_add((part.start - images.start) * stage.shape().output_len()),
            );
            let mut plans = self.plans[&(index, batch)].iter();
            let mut run = |conv: &Conv, input, residual, output, relu| {
                let plan = plans.next().expect("one plan for each convolution");
                // SAFETY: the plans were made in this order for these shapes, this batch and these threads; the buffers hold the largest part.
                unsafe {
                    conv.run(*simd, self.threads, plan, self.scratch, Data { batch, input, residual, output, relu })
                };
            };
            let (middle, sum) = (self.middle, self.sum);
            let [first, second] = &stage.blocks;
            // The sum replaces the shortcut's side of it.
            run(&first.first, from, NONE, middle, true);
            if let Some(shortcut) = &first.shortcut {
                run(shortcut, from, NONE, sum, false);
            }
            run(&first.second, middle, sum, sum, true);
            run(&second.first, sum, NONE, middle, true);
            run(&second.second, middle, sum, to, true);
        }
    }
}

/// Cuts a range into as few parts of at most `most` as can be, as equal as can be: 9 by 8 is 5 + 4, so that none is alone.
fn even_parts(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let (len, parts) = (range.len(), range.len().div_ceil(most));
    (0..parts).map(move |part| {
        let start = |part: usize| range.start + part * (len / parts) + part.min(len % parts);
        start(part)..start(part + 1)
    })
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
            at_once: [0; STAGES],
            plans: HashMap::new(),
            middle: empty(),
            sum: empty(),
            outputs: std::array::from_fn(|_| empty()),
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
        let image = self.side * self.side * CHANNELS;
        let most = (BATCH_PIXELS / (self.side * self.side)).clamp(1, MOST_IMAGES);
        for images in even_parts(0..batch, most) {
            self.plan(&mut workspace, images.len());
            self.pass(
                &mut workspace,
                &input[images.start * image..images.end * image],
                &mut output[images.start * self.classes..images.end * self.classes],
            );
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
