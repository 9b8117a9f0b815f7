//! Kept keys and values: chunks give the same results as whole sequences; blocks are shared, copied, saved and
//! restored.

use burn::tensor::DType;
use fornax_backend::kv::{BLOCK_TOKENS, CacheType, KvError, KvFormat, KvLayer};
use fornax_backend::ops::cases::attention::{Case, TESTS};
use fornax_backend::ops::{Mask, Sequences, attention};

use super::*;

/// Results are equal bit for bit with an arena, and close with tensors.
#[track_caller]
fn assert_same(case: impl std::fmt::Debug, format: KvFormat, found: Tensor<2>, expected: Tensor<2>) {
    match format {
        KvFormat::Arena(_) => assert_identical(case, found, expected),
        KvFormat::Tensors(DType::F32) => assert_close(case, found, &Array::read(expected), unit(64)),
        KvFormat::Tensors(_) => assert_close(case, found, &Array::read(expected), HALF_UNIT),
    }
}

/// Token by token, in chunks that end within blocks, and in chunks that end with blocks, the results are those of the
/// whole.
#[test]
fn pieces_give_what_the_whole_gives() {
    for mask in [Mask::Causal, Mask::Window(9)] {
        let case = Case::new(&[[70, 0], [45, 0]], [4, 2], 10, mask).rotated(6).normed();
        let operands = Operands::random(&case, &mut Random::new(1));
        for (format, _) in formats() {
            let whole = Pool::new(&operands, format).attend(&operands, &[[0, 70], [0, 45]]);
            for step in [1, 7, 32] {
                let mut pool = Pool::new(&operands, format);
                for first in (0..70).step_by(step) {
                    let parts = [70, 45].map(|len: usize| [first.min(len), (first + step).min(len)]);
                    let found = pool.attend(&operands, &parts);
                    let [rows, others] = parts.map(|[from, to]| to - from);
                    let own = found.clone().narrow(0, 0, rows);
                    assert_same((case, format, step, first), format, own, whole.clone().narrow(0, first, rows));
                    if others > 0 {
                        let own = found.narrow(0, rows, others);
                        let expected = whole.clone().narrow(0, 70 + parts[1][0], others);
                        assert_same((case, format, step, first, "second"), format, own, expected);
                    }
                }
            }
        }
    }
}

/// Where the kept type is exact, keeping keys and values does not change the results.
#[test]
fn what_is_kept_gives_what_is_not_kept() {
    for (seed, case) in TESTS.iter().enumerate().filter(|(_, case)| !case.continues()) {
        let operands = Operands::random(case, &mut Random::new(seed as u64));
        let expected = Array::read(operands.uncached());
        for format in [KvFormat::Arena(CacheType::F32), KvFormat::Tensors(DType::F32)] {
            assert_close((case, format), operands.cached(format), &expected, operands.unit());
        }
    }
}

/// Two sequences with the same beginning share its blocks. The second gets a copy of the last shared block before it
/// writes to it.
#[test]
fn shared_and_copied_blocks_give_what_own_blocks_give() {
    let case = Case::new(&[[3, 37], [2, 37]], [4, 2], 8, Mask::Causal).rotated(8);
    let mut operands = Operands::random(&case, &mut Random::new(2));
    let beginning = operands.qkv[0].narrow(0, 0, 37);
    operands.qkv[1] = joined(vec![beginning, operands.qkv[1].narrow(0, 37, 2)]);
    let expected = operands.naive();
    for (format, lost) in formats() {
        let own = operands.cached(format);
        assert_close((format, "own"), own.clone(), &expected, operands.unit().max(lost));
        let mut pool = Pool::new(&operands, format);
        pool.blocks = vec![vec![3, 1], vec![3, 4]];
        let first = Sequences::cached([(37, 0, &[3, 1][..]), (0, 0, &[])]);
        operands.attend(&[[0, 37], [0, 0]], &first, Some(&mut pool.layer));
        pool.layer.copy_block(1, 4);
        let shared = pool.attend(&operands, &operands.ends());
        assert_same((format, "shared"), format, shared, own);
    }
}

/// The bytes of a block are saved and restored to another block, with other bytes after them.
#[test]
fn saved_blocks_come_back() {
    let case = Case::new(&[[4, 60]], [2, 1], 12, Mask::Causal).rotated(12);
    let operands = Operands::random(&case, &mut Random::new(3));
    for (format, _) in formats() {
        let expected = operands.cached(format);
        let mut pool = Pool::new(&operands, format);
        assert_eq!(pool.layer.blocks(), 3);
        pool.attend(&operands, &[[0, 60]]);
        let mut bytes = Vec::new();
        pool.blocks[0].iter().for_each(|&block| pool.layer.save_block(block, &mut bytes));
        let block_bytes = format.block_bytes(1, 12);
        assert_eq!(bytes.len(), 2 * block_bytes, "{format:?}");

        let mut other = KvLayer::new(format, [1, 12], 5, device()).expect("a little memory");
        let rest = other.restore_block(4, &bytes).expect("a block's bytes");
        assert_eq!(other.restore_block(0, rest).expect("a block's bytes"), &[0u8; 0]);
        let sequences = Sequences::cached([(4, 60, &[4, 0][..])]);
        let found = operands.attend(&operands.ends(), &sequences, Some(&mut other));
        assert_same(format, format, found, expected);

        let short = other.restore_block(0, &bytes[..block_bytes - 1]).expect_err("a byte is missing");
        let KvError::Block { expected, found } = short else { panic!("{short}") };
        assert_eq!((expected, found), (block_bytes, block_bytes - 1));
    }
}

/// What a former owner left in the unused part of a block does not change results.
#[test]
fn blocks_need_not_be_cleared() {
    let case = Case::new(&[[1, 20], [9, 33]], [4, 2], 6, Mask::Causal);
    let operands = Operands::random(&case, &mut Random::new(4));
    for (format, _) in formats() {
        let expected = operands.cached(format);
        let mut pool = Pool::new(&operands, format);
        let longer = Case::new(&[[96, 0]], [4, 2], 6, Mask::Causal);
        let before = Operands::random(&longer, &mut Random::new(5));
        let sequences = Sequences::cached([(96, 0, &[1, 2, 3][..])]);
        before.attend(&[[0, 96]], &sequences, Some(&mut pool.layer));
        pool.attend(&operands, &[[0, 20], [0, 33]]);
        let found = pool.attend(&operands, &operands.ends());
        assert_same(format, format, found, expected);
    }
}

#[test]
fn layers_of_another_shape_are_refused() {
    let options = AttentionOptions::causal(4, 2, 4);
    let run = |format, shape, sequences: &Sequences| {
        let mut layer = KvLayer::new(format, shape, 2, device()).expect("a little memory");
        let qkv = Tensor::<2>::zeros([sequences.rows(), 32], device().as_burn());
        attention(qkv, sequences, Some(&mut layer), None, None, &options).dims()
    };
    for (format, name) in [(KvFormat::Arena(CacheType::F32), "arena"), (KvFormat::Tensors(DType::F32), "kept key")] {
        let fits = Sequences::cached([(3, 30, &[1, 0][..])]);
        assert_eq!(run(format, [2, 4], &fits), [3, 16], "these fit");
        assert_panics(&[name], || run(format, [1, 4], &fits));
        assert_panics(&["blocks", "3", "2"], || run(format, [2, 4], &Sequences::cached([(1, 0, &[2][..])])));
        assert_panics(&["blocks"], || run(format, [2, 4], &Sequences::uncached(&[3])));
    }
    assert_eq!(BLOCK_TOKENS, 32, "what the numbers of these tests are made for");
}
