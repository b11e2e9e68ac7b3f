//! Randomness: the operating system's, drawn in pages because one system call an entry would cost a third of its sealing.

use std::cell::RefCell;

use zeroize::Zeroize;

const PAGE: usize = 4096;

struct Pool {
    bytes: [u8; PAGE],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; PAGE], used: PAGE }) };
}

/// `N` fresh random bytes. Each byte of a page is handed out once and wiped behind. The process never forks.
pub fn array<const N: usize>() -> [u8; N] {
    const { assert!(N <= PAGE, "a draw fits into one page") };
    POOL.with_borrow_mut(|pool| {
        if pool.used + N > PAGE {
            getrandom::fill(&mut pool.bytes).expect("the operating system gives randomness once it has booted");
            pool.used = 0;
        }
        let drawn = &mut pool.bytes[pool.used..pool.used + N];
        let out = <[u8; N]>::try_from(&*drawn).expect("the slice has N bytes");
        drawn.zeroize();
        pool.used += N;
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_draw_repeats_across_pages() {
        let mut seen = std::collections::HashSet::new();
        assert!((0..10_000).all(|_| seen.insert(array::<32>())));
        // The last byte of a page may be the only one that is drawn.
        let bytes: std::collections::HashSet<u8> = (0..3 * PAGE).flat_map(|_| array::<1>()).collect();
        assert_eq!(bytes.len(), 256);
    }
}
