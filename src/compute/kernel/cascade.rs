//! A network of inverted residuals, block by block.
//!
//! Large images pass a block in strips, each from its input to its output in memory of one thread ([`Block::strip`]),
//! as many images at a time as there are threads. From the first block on whose widened panels are small enough to be
//! held whole, all images go on together, each panel by one thread ([`Block::panel`]), so that weights are read once
//! for many pixels; the projection follows when all panels are there.

use super::super::architecture::{Activation, Inverted, Network};
use super::calls::Calls;
use super::inverted::{Block, Strip};
use super::layer::{Call, Conv, Data, Scratch};
use super::mean::Mean;
use super::memory::{Buffer, Shared, gather};
use super::plan::{Algorithm, Plan};
use super::pointwise::{Matrix, Odd};
use super::product::Rows;
use super::simd::Simd;
use super::stem::CHANNELS;
use super::threads::Threads;
use super::weights::{self, KernelError, Weights};
use super::workspace::{even_parts, grow};
use super::{Forward, Outputs, run};

/// Pixels of input in one pass: eight images of 224. More would only cost memory.
const BATCH_PIXELS: usize = 8 * 224 * 224;
/// Most images in one pass.
const MOST_IMAGES: usize = 128;
/// Floats in the middle of a block, of all images that pass it together, for each thread: half the second-level cache.
const MIDDLE: usize = 128 << 10;

/// The layers, folded and packed.
pub(super) struct Layers {
    side: usize,
    blocks: Vec<Block>,
    /// Blocks that large images pass in strips, the first always among them.
    strips: usize,
    head: Matrix,
    head_activation: Activation,
    /// Place of each pixel of the head's output.
    head_places: Vec<u32>,
    /// Floats of a pixel of the head's input.
    head_stride: usize,
    /// The linear layer, as a convolution of one pixel.
    last: Conv,
}

/// A network of inverted residuals for one instruction set.
pub(super) struct Cascade<S: Simd> {
    pub(super) simd: S,
    pub(super) layers: Layers,
    pub(super) calls: Calls<Memory>,
}

/// What a call needs and the next can use again.
pub(super) struct Memory {
    threads: Threads,
    /// Images that the rest is made for.
    batch: usize,
    /// Of the images that pass the first blocks at a time, by turns a block's input and output.
    strips: [Buffer; 2],
    /// Of all images, by turns a block's input and output.
    images: [Buffer; 2],
    /// In the middle of a block, of the images that pass it together.
    middle: Buffer,
    private: Buffer,
    /// Floats of `private` for each thread.
    private_len: usize,
    /// For the last layer.
    plan: Option<Plan>,
    shared: Buffer,
}

impl Layers {
    /// Folds and packs the weights.
    pub(super) fn new<S: Simd>(
        network: &Network,
        inverted: &Inverted,
        weights: &dyn Weights,
        side: usize,
        threads: &mut Threads,
    ) -> Result<Self, KernelError> {
        let (mut blocks, mut side_in) = (Vec::new(), side);
        for block in &inverted.blocks {
            let block = Block::new::<S>(block, network.epsilon, weights, side_in, threads)?;
            side_in = block.size.output_side;
            blocks.push(block);
        }
        let strips = blocks.iter().skip(1).position(|block| block.size.is_small()).map_or(blocks.len(), |at| at + 1);
        let mut head =
            Matrix::new::<S>(&weights::convolution(weights, &inverted.head, network.epsilon)?, 1, Odd::Alone, threads);
        let mut last = Conv::linear::<S>(&weights::linear(weights, &network.last)?, threads);
        gather(blocks.iter_mut().flat_map(Block::buffers).chain(head.buffers()).chain(last.buffers()));
        assert!(last.shape.inputs.is_multiple_of(S::LANES), "features are whole vectors");
        Ok(Self {
            side,
            strips,
            head,
            head_activation: inverted.head.activation,
            head_places: (0..side_in * side_in).map(|pixel| (pixel * S::PANEL) as u32).collect(),
            head_stride: inverted.head.inputs.next_multiple_of(S::LANES),
            last,
            blocks,
        })
    }

    /// Images that pass a small block together.
    fn together(&self, block: &Block, batch: usize, threads: usize) -> usize {
        (threads * MIDDLE / block.size.middle_len()).clamp(1, batch)
    }
}

impl Memory {
    pub(super) fn new(threads: Threads) -> Self {
        let empty = || Buffer::zeroed(0);
        Self {
            threads,
            batch: 0,
            strips: [empty(), empty()],
            images: [empty(), empty()],
            middle: empty(),
            private: empty(),
            private_len: 0,
            plan: None,
            shared: empty(),
        }
    }

    /// Makes it ready for `batch` images.
    fn plan<S: Simd>(&mut self, layers: &Layers, batch: usize) {
        if self.batch == batch {
            return;
        }
        // Until the end, so that a panic on the way leaves no half a plan.
        self.batch = 0;
        let threads = self.threads.count();
        let (early, late) = layers.blocks.split_at(layers.strips);
        let most = |blocks: &[Block], len: &dyn Fn(&Block) -> usize| blocks.iter().map(len).max().unwrap_or(0);
        let (strip, image) = (most(early, &|b| b.size.output_len()), most(late, &|b| b.size.output_len()));
        let last = early.last().map_or(0, |block| block.size.output_len());
        let (strip, image) = (threads.min(batch) * strip, batch * image.max(last));
        let middle = most(late, &|b| layers.together(b, batch, threads) * b.size.middle_len());
        let plan = run::plan::<S>(
            Algorithm::choose(&layers.last.shape, batch, S::LANES),
            &layers.last.shape,
            batch,
            0,
            threads,
        );
        self.private_len = most(early, &Block::strip_scratch)
            .max(most(late, &Block::panel_scratch))
            .max(layers.head_places.len() * S::PANEL)
            .max(plan.private)
            .next_multiple_of(16);
        self.hold([strip, strip, image, image, middle, self.private_len * threads, plan.shared]);
        self.plan = Some(plan);
        self.batch = batch;
    }

    /// Makes room for as many floats in each buffer, in the order of the fields, where there is none yet.
    fn hold(&mut self, lens: [usize; 7]) {
        let Self { strips: [strip, other_strip], images: [image, other_image], middle, private, shared, .. } = self;
        let mut buffers = [strip, other_strip, image, other_image, middle, private, shared];
        if buffers.iter().zip(lens).any(|(buffer, len)| buffer.len() < len) {
            for (buffer, len) in buffers.iter_mut().zip(lens) {
                grow(buffer, len);
            }
            gather(buffers);
        }
    }

    /// Memory of the threads, and of layers.
    fn scratch(&mut self) -> Scratch {
        Scratch {
            shared: Shared(self.shared.as_mut_ptr()),
            private: Shared(self.private.as_mut_ptr()),
            private_len: self.private_len,
        }
    }
}

impl<S: Simd> Forward for Cascade<S> {
    fn forward(&self, batch: usize, input: &[f32], outputs: &mut Outputs) {
        let Layers { side, ref last, .. } = self.layers;
        let mut memory = self.calls.take();
        let image = side * side * CHANNELS;
        let most = (BATCH_PIXELS / (side * side)).clamp(1, MOST_IMAGES);
        for images in even_parts(0..batch, most) {
            memory.plan::<S>(&self.layers, images.len());
            let of = |len: usize| images.start * len..images.end * len;
            let features = &mut outputs.features[of(last.shape.inputs)];
            self.pass(&mut memory, &input[of(image)], features);
            self.classify(&mut memory, features, &mut outputs.logits[of(last.shape.outputs)]);
        }
    }
}

impl<S: Simd> Cascade<S> {
    /// Computes the features of as many images as the memory is planned for.
    fn pass(&self, memory: &mut Memory, input: &[f32], features: &mut [f32]) {
        let (early, late) = self.layers.blocks.split_at(self.layers.strips);
        let (batch, image) = (memory.batch, self.layers.side * self.layers.side * CHANNELS);
        let len = early.last().map_or(0, |block| block.size.output_len());
        let [mut from, mut to] = memory.images.each_mut().map(|buffer| Shared(buffer.as_mut_ptr()));
        for images in even_parts(0..batch, memory.threads.count()) {
            let input = &input[images.start * image..images.end * image];
            // SAFETY: the buffer holds the outputs of all images.
            unsafe { self.strips(memory, input, images.len(), Shared(from.get().add(images.start * len))) };
        }
        for block in late {
            for images in even_parts(0..batch, self.layers.together(block, batch, memory.threads.count())) {
                // SAFETY: the buffers hold all images of any block, and the middle as many as go together.
                unsafe {
                    let input =
                        from.get().add(images.start * block.size.side * block.size.side * block.size.input_stride);
                    let output = to.get().add(images.start * block.size.output_len());
                    self.together(memory, block, images.len(), Shared(input), Shared(output));
                }
            }
            std::mem::swap(&mut from, &mut to);
        }
        // SAFETY: the last block has written all images.
        unsafe { self.head(memory, from.get(), features) };
    }

    /// Takes as many images as there are threads, or fewer, through the first blocks.
    ///
    /// # Safety
    /// `output` has room for as many outputs of the last of them.
    unsafe fn strips(&self, memory: &mut Memory, input: &[f32], images: usize, output: Shared<f32>) {
        let (image, scratch) = (input.len() / images, memory.scratch());
        let [mut from, mut to] = memory.strips.each_mut().map(|buffer| Shared(buffer.as_mut_ptr()));
        let threads = memory.threads.count();
        for (index, block) in self.layers.blocks[..self.layers.strips].iter().enumerate() {
            if index + 1 == self.layers.strips {
                to = output;
            }
            let rows = block.size.output_side.div_ceil(threads.div_ceil(images));
            let strips = block.size.output_side.div_ceil(rows);
            memory.threads.run(images * strips, &|task, thread| {
                let (which, first) = (task / strips, task % strips * rows);
                let len = block.size.side * block.size.side * block.size.input_stride;
                let strip = Strip {
                    image: &input[which * image..][..image],
                    input: from.get().wrapping_add(which * len),
                    output: to.get().wrapping_add(which * block.size.output_len()),
                    scratch: scratch.private(thread),
                };
                // SAFETY: the buffers hold the inputs and outputs of all blocks; each task writes its own rows.
                unsafe { block.strip(self.simd, first..block.size.output_side.min(first + rows), strip) };
            });
            std::mem::swap(&mut from, &mut to);
        }
    }

    /// Takes some images through a small block.
    ///
    /// # Safety
    /// There are as many inputs, and room for as many outputs.
    unsafe fn together(
        &self,
        memory: &mut Memory,
        block: &Block,
        images: usize,
        input: Shared<f32>,
        output: Shared<f32>,
    ) {
        let (scratch, middle) = (memory.scratch(), Shared(memory.middle.as_mut_ptr()));
        let size = block.size;
        let input_len = size.side * size.side * size.input_stride;
        memory.threads.run(size.panels, &|panel, thread| {
            block.fetch(self.simd, panel);
            for image in 0..images {
                // SAFETY: each task writes its own panel of the middle.
                unsafe {
                    let input = input.get().add(image * input_len);
                    let middle = middle.get().add(image * size.middle_len());
                    block.panel(self.simd, panel, input, scratch.private(thread), middle);
                }
            }
        });
        let pixels = images * size.output_side * size.output_side;
        let (panels, threads) = (block.output_panels::<S>(), memory.threads.count());
        let pieces = pixels.div_ceil(block.most_pixels()).max((2 * threads).div_ceil(panels));
        let piece = pixels.div_ceil(pieces);
        let pieces = pixels.div_ceil(piece);
        memory.threads.run(panels * pieces, &|task, _| {
            let (panel, first) = (task / pieces, task % pieces * piece);
            let count = piece.min(pixels - first);
            // SAFETY: each task writes its own panel of its own pixels.
            unsafe {
                let middle = middle.get().add(first * size.middle_stride);
                let residual = if block.identity {
                    input.get().add(first * size.input_stride).cast_const()
                } else {
                    std::ptr::null()
                };
                block.narrow(self.simd, panel, middle, count, output.get().add(first * size.output_stride), residual);
            }
        });
    }

    /// The head, and the mean over its pixels.
    ///
    /// # Safety
    /// `input` holds the outputs of the last block.
    unsafe fn head(&self, memory: &mut Memory, input: *mut f32, features: &mut [f32]) {
        let Layers { head, head_places, head_stride, head_activation, last, .. } = &self.layers;
        let (batch, scratch, pixels) = (memory.batch, memory.scratch(), head_places.len());
        let (input, features) = (Shared(input), Shared(features.as_mut_ptr()));
        // For one image the last layer does one product with each of its weights, and so would wait for memory.
        let panels = head.panels::<S>();
        let share = |panel: usize| {
            let place = |panel| last.weights.len() * panel / panels;
            &last.weights[place(panel)..place(panel + 1)]
        };
        memory.threads.run(panels, &|panel, thread| {
            let output = scratch.private(thread);
            for image in 0..batch {
                // SAFETY: the scratch has room for one panel of the pixels; each task writes its own features.
                unsafe {
                    let rows = Rows {
                        input: input.get().add(image * pixels * head_stride),
                        stride: *head_stride,
                        tap_stride: 0,
                        count: pixels,
                        output,
                        places: head_places.as_ptr(),
                        residual: std::ptr::null(),
                        activation: *head_activation,
                        next: if image == 0 { share(panel) } else { &[] },
                    };
                    head.multiply(self.simd, panel, rows);
                    let to = features.get().add(image * last.shape.inputs + panel * S::PANEL);
                    let channels = head.width::<S>(panel);
                    self.simd.launch(Mean {
                        from: output,
                        from_stride: S::PANEL,
                        pixels,
                        channels,
                        batch: 1,
                        to,
                        stride: 0,
                    });
                }
            }
        });
    }

    /// The last layer.
    fn classify(&self, memory: &mut Memory, features: &mut [f32], logits: &mut [f32]) {
        let scratch = memory.scratch();
        let data = Data {
            batch: memory.batch,
            input: Shared(features.as_mut_ptr()),
            residual: Shared(std::ptr::null_mut()),
            output: Shared(logits.as_mut_ptr()),
            relu: false,
        };
        let plan = memory.plan.as_ref().expect("it is planned");
        let call = Call { simd: self.simd, threads: &mut memory.threads, conv: &self.layers.last, plan, scratch, data };
        // SAFETY: the plan was made for this layer and batch, the scratch is as large as it asks.
        unsafe { run::run(call) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::architecture::{Architecture, Family};
    use super::super::{bench::Tensors, simd::Portable};
    use super::*;

    #[test]
    fn memory_is_kept_when_batches_become_smaller_and_larger_again() {
        let network = Architecture::EfficientNetLite0.network(10);
        let Family::Inverted(inverted) = &network.family else { unreachable!("it is of inverted residuals") };
        let weights = Tensors::random(&network);
        let mut threads = Threads::new(1).unwrap();
        let layers = Layers::new::<Portable>(&network, inverted, &weights, 224, &mut threads).unwrap();
        let mut memory = Memory::new(threads);
        let mut places = |batch: usize| {
            memory.plan::<Portable>(&layers, batch);
            let Memory { strips, images, middle, private, .. } = &memory;
            strips.iter().chain(images).chain([middle, private]).map(|buffer| buffer.as_ptr_range()).collect::<Vec<_>>()
        };
        let first = places(5);
        assert_eq!(places(2), first);
        assert_eq!(places(5), first);
        assert_ne!(places(9), first);
    }
}
