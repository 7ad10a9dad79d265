//! Zeroed, aligned memory for weights and scratch, in huge pages where the kernel gives them.
//!
//! A batch of one reads every weight once: with 4 KB pages the walk through them costs more than the arithmetic that
//! hides it.

use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
#[cfg(target_os = "linux")]
use std::sync::Arc;

/// Buffers below this many bytes come from the allocator, unless they are [gathered](gather).
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

/// Takes `bytes` out of this process's memory where they belong to a mapped file, as what is embedded in a program
/// does. They are read from it again when they are used again. Elsewhere nothing happens.
pub fn unload(bytes: &[u8]) {
    #[cfg(target_os = "linux")]
    if let Some(pages) = whole_pages(bytes.as_ptr_range())
        && std::fs::read_to_string("/proc/self/smaps").is_ok_and(|maps| is_unchanged_file(&maps, &pages))
    {
        let start = bytes.as_ptr().with_addr(pages.start).cast_mut().cast();
        // SAFETY: the pages are a file's, none of them was changed in memory and none can be: the file gives the same
        // bytes again.
        unsafe { libc::madvise(start, pages.len(), libc::MADV_DONTNEED) };
    }
}

/// The addresses of the pages that lie in `bytes` as a whole, if there are any.
#[cfg(target_os = "linux")]
fn whole_pages(bytes: Range<*const u8>) -> Option<Range<usize>> {
    // SAFETY: it reads a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let pages = bytes.start.addr().next_multiple_of(page)..bytes.end.addr() / page * page;
    (!pages.is_empty()).then_some(pages)
}

/// Whether `pages` lie in one private mapping of a file that cannot be written and of which memory has no copy of its
/// own, by the text of `/proc/self/smaps` (proc(5)).
#[cfg(target_os = "linux")]
fn is_unchanged_file(maps: &str, pages: &Range<usize>) -> bool {
    let mut ours = false;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if let Some((start, end)) = first.split_once('-') {
            let address = |digits| usize::from_str_radix(digits, 16).unwrap_or(0);
            let inode = words.nth(2).unwrap_or("0");
            ours = address(start) <= pages.start
                && pages.end <= address(end)
                && second.starts_with("r-")
                && second.ends_with('p')
                && inode != "0";
        } else if ours && first == "Anonymous:" {
            return second == "0";
        }
    }
    false
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
    /// A mapping that holds this buffer, and perhaps others.
    #[cfg(target_os = "linux")]
    Mapping(Arc<Mapping>),
}

/// An anonymous mapping.
#[cfg(target_os = "linux")]
struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

#[cfg(target_os = "linux")]
// SAFETY: it is an address and a length; what lies there is shared as the buffers are.
unsafe impl Send for Mapping {}
#[cfg(target_os = "linux")]
// SAFETY: as above.
unsafe impl Sync for Mapping {}

#[cfg(target_os = "linux")]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and no buffer in it is left.
        unsafe { libc::munmap(self.start, self.length) };
    }
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
        let mapping = Arc::new(Mapping { start, length });
        let aligned = start.map_addr(|a| a.next_multiple_of(HUGE_PAGE));
        // Huge pages are in memory as a whole: what does not fill the last one goes without.
        let whole = len * size_of::<f32>() / HUGE_PAGE * HUGE_PAGE;
        // SAFETY: the ranges lie in the mapping. Only advice: its failure leaves the pages as they come.
        unsafe {
            libc::madvise(aligned, whole, libc::MADV_HUGEPAGE);
            libc::madvise(aligned.byte_add(whole), bytes - whole, libc::MADV_NOHUGEPAGE);
        }
        Some(Self { data: NonNull::new(aligned.cast())?, len, owner: Owner::Mapping(mapping) })
    }
}

/// Moves buffers into one block of memory, in which small ones too are in huge pages, up to where the block does not fill
/// another. They stay where they are if all together do not fill one, or the system has no memory for the block.
pub(super) fn gather<'a>(buffers: impl IntoIterator<Item = &'a mut Buffer>) {
    #[cfg(target_os = "linux")]
    {
        let buffers: Vec<&mut Buffer> = buffers.into_iter().collect();
        let in_lines = |buffer: &Buffer| buffer.len().next_multiple_of(LINE / size_of::<f32>());
        let len: usize = buffers.iter().map(|buffer| in_lines(buffer)).sum();
        if len * size_of::<f32>() < HUGE_PAGE {
            return;
        }
        let Some(Buffer { data, owner: Owner::Mapping(mapping), .. }) = &Buffer::mapped(len) else { return };
        let mut first = 0;
        for buffer in buffers {
            // SAFETY: each has a part of the mapping to itself.
            let data = unsafe { data.add(first) };
            let mut moved = Buffer { data, len: buffer.len(), owner: Owner::Mapping(Arc::clone(mapping)) };
            moved.copy_from_slice(buffer);
            first += in_lines(buffer);
            *buffer = moved;
        }
    }
    #[cfg(not(target_os = "linux"))]
    drop(buffers);
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.owner {
            Owner::Heap(layout) if layout.size() == 0 => {}
            // SAFETY: allocated with this layout.
            Owner::Heap(layout) => unsafe { std::alloc::dealloc(self.data.as_ptr().cast(), layout) },
            #[cfg(target_os = "linux")]
            Owner::Mapping(_) => {}
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

    #[cfg(target_os = "linux")]
    #[test]
    fn only_what_is_a_files_is_unloaded() {
        static EMBEDDED: [u8; 1 << 16] = {
            let mut bytes = [0; 1 << 16];
            let mut n = 0;
            while n < bytes.len() {
                bytes[n] = (n % 251) as u8;
                n += 1;
            }
            bytes
        };
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(is_unchanged_file(&maps, &whole_pages(EMBEDDED.as_ptr_range()).unwrap()));
        let heap = EMBEDDED.to_vec();
        assert!(!is_unchanged_file(&maps, &whole_pages(heap.as_ptr_range()).unwrap()));
        unload(&EMBEDDED);
        unload(&heap);
        unload(&heap[..10]);
        assert!(EMBEDDED.iter().zip(&heap).enumerate().all(|(n, (a, b))| a == b && usize::from(*a) == n % 251));
        let maps = "1000-9000 r--p 00000000 fe:00 7 /bin/x\nAnonymous:  0 kB\n\
                    9000-a000 r--p 00000000 fe:00 7 /bin/x\nAnonymous:  4 kB\n\
                    a000-b000 rw-p 00000000 fe:00 7 /bin/x\nAnonymous:  0 kB\n\
                    b000-c000 r--p 00000000 00:00 0\nAnonymous:  0 kB\n";
        let pages = [0x2000..0x4000, 0x8000..0xa000, 0x9000..0xa000, 0xa000..0xb000, 0xb000..0xc000, 0xc000..0xd000];
        let found: Vec<bool> = pages.iter().map(|pages| is_unchanged_file(maps, pages)).collect();
        assert_eq!(found, [true, false, false, false, false, false]);
    }

    #[test]
    fn gathered_buffers_are_as_they_were() {
        // Too few for a huge page, and enough.
        for len in [100, 300_000] {
            let mut buffers: Vec<Buffer> = (0..4).map(|index| Buffer::zeroed(index * len + index)).collect();
            for (index, buffer) in buffers.iter_mut().enumerate() {
                buffer.fill(index as f32);
            }
            gather(&mut buffers);
            gather(&mut buffers);
            buffers.swap_remove(1);
            for (buffer, index) in buffers.iter_mut().zip([0, 3, 2]) {
                assert_eq!(buffer.len(), index * len + index);
                assert!(buffer.is_empty() || (buffer.as_ptr() as usize).is_multiple_of(LINE));
                assert!(buffer.iter().all(|&x| x == index as f32));
                buffer.fill(7.0);
            }
            let places = [&buffers[0], &buffers[2], &buffers[1]].map(|buffer| buffer.as_ptr_range());
            if cfg!(target_os = "linux") && len == 300_000 {
                let gap = places[2].start.addr() - places[1].end.addr();
                assert!(gap < LINE, "{places:?}");
            }
        }
    }

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
