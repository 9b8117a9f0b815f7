//! Keys and values of the tokens seen so far, in pages that sequences share until one of them writes. It keeps memory;
//! what is put in and what is made of it is [`attention`](crate::attention)'s matter, and which sequences live is the
//! caller's.

mod page;

use std::collections::HashSet;
use std::sync::Arc;

pub use page::{KvPage, PAGE_TOKENS};

/// The numbers that a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CacheType {
    /// Keys and values exactly as computed.
    F32,
    /// Half the memory, 11 bits of precision, nothing above 65,504.
    #[default]
    F16,
    /// Half the memory, 8 bits of precision, the range of `f32`.
    BF16,
}

impl CacheType {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// What the pages of a layer hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvShape {
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Components of a key and of a value.
    pub head_dim: usize,
    /// What they are kept as.
    pub cache_type: CacheType,
}

impl KvShape {
    /// Bytes of a page of [`PAGE_TOKENS`] tokens.
    pub fn page_bytes(self) -> usize {
        self.kv_heads * self.head_bytes()
    }

    /// Bytes of a head in a page.
    pub(crate) fn head_bytes(self) -> usize {
        PAGE_TOKENS * (self.head_dim + self.value_stride()) * self.cache_type.bytes()
    }

    /// From a token's values to the next one's.
    pub(crate) fn value_stride(self) -> usize {
        self.head_dim.next_multiple_of(16)
    }
}

/// Keys and values of one layer for some sequences of one length.
///
/// Clones and sequences share full pages, and copy one that is partly filled when they first add to it.
///
/// ```
/// use fornax_cpu::cache::{CacheType, KvLayer, KvShape};
///
/// let shape = KvShape { kv_heads: 2, head_dim: 64, cache_type: CacheType::F16 };
/// let mut layer = KvLayer::new(shape, 1);
/// assert_eq!((layer.sequences(), layer.len(), layer.bytes()), (1, 0, 0));
/// layer.select(&[0, 0, 0]); // three beams continue from one prompt
/// assert_eq!(layer.sequences(), 3);
/// ```
#[derive(Debug, Clone)]
pub struct KvLayer {
    shape: KvShape,
    len: usize,
    /// A table of pages for each sequence, all of `len.div_ceil(PAGE_TOKENS)` pages.
    tables: Vec<Vec<Arc<KvPage>>>,
}

impl KvLayer {
    /// `sequences` empty ones.
    pub fn new(shape: KvShape, sequences: usize) -> Self {
        Self { shape, len: 0, tables: vec![Vec::new(); sequences] }
    }

    /// Sequences of `len` tokens each, whose pages are shared with whoever else has them.
    ///
    /// # Panics
    /// When a table has not as many pages as `len` tokens need, or a page has another shape.
    pub fn from_pages(shape: KvShape, len: usize, tables: Vec<Vec<Arc<KvPage>>>) -> Self {
        for table in &tables {
            assert_eq!(table.len(), len.div_ceil(PAGE_TOKENS), "pages for {len} tokens");
            for page in table {
                assert_eq!(page.shape(), shape, "shape of a page");
            }
        }
        Self { shape, len, tables }
    }

    /// What its pages hold.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// How many sequences there are.
    pub fn sequences(&self) -> usize {
        self.tables.len()
    }

    /// Tokens of each sequence.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the sequences have no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pages of a sequence, in order; the last may be filled partly.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn pages(&self, sequence: usize) -> &[Arc<KvPage>] {
        &self.tables[sequence]
    }

    /// Sequence `i` continues from what sequence `from[i]` was; the number of sequences becomes that of `from`.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn select(&mut self, from: &[usize]) {
        if from.len() == self.tables.len() && from.iter().enumerate().all(|(i, &from)| i == from) {
            return;
        }
        self.tables = from.iter().map(|&from| self.tables[from].clone()).collect();
    }

    /// Forgets the tokens from `len` on; nothing when there are not that many.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            for table in &mut self.tables {
                table.truncate(len.div_ceil(PAGE_TOKENS));
            }
        }
    }

    /// Bytes of its pages, each counted once, however many sequences share it.
    pub fn bytes(&self) -> usize {
        let pages: HashSet<*const KvPage> = self.tables.iter().flatten().map(Arc::as_ptr).collect();
        pages.len() * self.shape.page_bytes()
    }

    /// Key and value of a token, as they are kept, into slices of `head_dim`.
    ///
    /// # Panics
    /// When there is no such sequence, token or head, or a slice has another length.
    pub fn read(&self, sequence: usize, token: usize, head: usize, key: &mut [f32], value: &mut [f32]) {
        assert!(token < self.len, "token {token} of {}", self.len);
        assert_eq!((key.len(), value.len()), (self.shape.head_dim, self.shape.head_dim), "components");
        let page = &self.tables[sequence][token / PAGE_TOKENS];
        for (index, (key, value)) in key.iter_mut().zip(value).enumerate() {
            (*key, *value) = page.read(head, token % PAGE_TOKENS, index);
        }
    }

    /// Makes room for `new` more tokens in pages that nobody else has. The keys and values of those tokens are
    /// unspecified until they are written through [`KvPage::head`], which only the holder of this `&mut` may do.
    pub(crate) fn grow(&mut self, new: usize) {
        let pages = (self.len + new).div_ceil(PAGE_TOKENS);
        for table in &mut self.tables {
            if new > 0 && !self.len.is_multiple_of(PAGE_TOKENS) {
                Arc::make_mut(&mut table[self.len / PAGE_TOKENS]);
            }
            table.resize_with(pages, || Arc::new(KvPage::new(self.shape)));
        }
        self.len += new;
    }
}
