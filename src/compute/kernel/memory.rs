//! Zeroed, aligned memory for weights and scratch, in huge pages where the kernel gives them.
//!
//! A batch of one reads every weight once: with 4 KB pages the walk through them costs more than the arithmetic that
//! hides it.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Buffers below this many bytes come from the allocator.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// Alignment of every buffer: a cache line, and the widest vector.
const LINE: usize = 64;

/// Blocks of this many bytes and more go back to the system when they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BLOCK: libc::c_int = 1 << 20;

/// Has the allocator give large blocks back to the system when they are freed, for the life of this process. glibc by
/// itself keeps ever larger ones (`M_MMAP_THRESHOLD` in mallopt(3)), so that a process that decodes pictures of all
/// sizes grows by half.
pub fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number of the allocator, under the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK);
    }
}

/// A fixed-length zeroed array of `f32`.
pub(super) struct Buffer {
    data: NonNull<f32>,
    len: usize,
    owner: Owner,
}

/// Who frees the memory.
enum Owner {
    /// The global allocator, with this layout; nobody if its size is zero.
    Heap(std::alloc::Layout),
    /// An anonymous mapping: its start (at or before the aligned data) and length.
    #[cfg(target_os = "linux")]
    Mapping(*mut libc::c_void, usize),
}

// SAFETY: a buffer owns its memory; sharing follows Rust's rules through `Deref`.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros.
    pub(super) fn zeroed(len: usize) -> Self {
        #[cfg(target_os = "linux")]
        if len * size_of::<f32>() >= HUGE_PAGE
            && let Some(buffer) = Self::mapped(len)
        {
            return buffer;
        }
        let layout = std::alloc::Layout::array::<f32>(len)
            .and_then(|l| l.align_to(LINE))
            .expect("a tensor fits the address space");
        if layout.size() == 0 {
            return Self { data: NonNull::dangling(), len, owner: Owner::Heap(layout) };
        }
        // SAFETY: the size is not zero.
        let data = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(data) = NonNull::new(data.cast()) else { std::alloc::handle_alloc_error(layout) };
        Self { data, len, owner: Owner::Heap(layout) }
    }

    /// An anonymous mapping aligned to huge pages, or `None` if the system refuses.
    #[cfg(target_os = "linux")]
    fn mapped(len: usize) -> Option<Self> {
        let bytes = (len * size_of::<f32>()).next_multiple_of(HUGE_PAGE);
        let length = bytes + HUGE_PAGE;
        // SAFETY: a fresh private mapping; nothing else refers to it.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        let aligned = start.map_addr(|a| a.next_multiple_of(HUGE_PAGE));
        // SAFETY: the range lies in the mapping. Only advice: its failure leaves small pages.
        unsafe { libc::madvise(aligned, bytes, libc::MADV_HUGEPAGE) };
        Some(Self { data: NonNull::new(aligned.cast())?, len, owner: Owner::Mapping(start, length) })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.owner {
            Owner::Heap(layout) if layout.size() == 0 => {}
            // SAFETY: allocated with this layout.
            Owner::Heap(layout) => unsafe { std::alloc::dealloc(self.data.as_ptr().cast(), layout) },
            #[cfg(target_os = "linux")]
            // SAFETY: mapped with this length.
            Owner::Mapping(start, length) => unsafe {
                libc::munmap(start, length);
            },
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `len` initialised floats that this buffer owns.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: `len` initialised floats that this buffer owns.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

/// A pointer that tasks of one layer share: each task writes its own part.
pub(super) struct Shared<T>(pub(super) *mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}
// SAFETY: whoever dereferences it answers for the aliasing.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The pointer. A method, so that closures capture the whole wrapper.
    #[inline(always)]
    pub(super) fn get(self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_aligned_and_writable_at_any_size() {
        for len in [0, 1, 17, 1000, 524_287, 524_288, 1_500_001] {
            let mut buffer = Buffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&x| x == 0.0));
            assert!(len == 0 || (buffer.as_ptr() as usize).is_multiple_of(LINE));
            buffer.fill(1.0);
            assert!(buffer.iter().all(|&x| x == 1.0));
        }
    }
}
