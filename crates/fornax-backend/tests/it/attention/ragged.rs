//! The operation against the definition: lengths, groups, masks, dtypes, gradients, and what it refuses.

use burn::tensor::{DType, Tensor};
use fornax_backend::kv::{CacheType, KvFormat};
use fornax_backend::ops::cases::attention::{Case, TESTS};
use fornax_backend::ops::{AttentionOptions, Mask, RopeTables, Sequences, attention};

use super::*;

#[test]
fn cases_follow_the_definition() {
    for (seed, case) in TESTS.iter().enumerate() {
        let operands = Operands::random(case, &mut Random::new(seed as u64));
        let expected = operands.naive();
        if !case.continues() {
            assert_close(case, operands.uncached(), &expected, operands.unit());
        }
        for (format, lost) in formats() {
            assert_close((case, format), operands.cached(format), &expected, operands.unit().max(lost));
        }
    }
}

#[test]
fn random_shapes_follow_the_definition() {
    for mut random in random_shapes() {
        let kv_heads = random.size(3);
        let masks = [Mask::Full, Mask::Causal, Mask::Window(random.size(12)), Mask::Local(random.size(12) - 1)];
        let continues = random.coin();
        let sequences: Vec<[usize; 2]> = (0..random.size(4))
            .map(|_| [random.size(40) - 1, if continues { random.size(70) - 1 } else { 0 }])
            .chain([[1, 0]])
            .collect();
        let half = random.size(6);
        let head_dim = 2 * half + random.size(4) - 1;
        let heads = [kv_heads * random.size(3), kv_heads];
        let mut case = Case::new(&sequences, heads, head_dim, masks[random.size(4) - 1]);
        if random.coin() {
            case = case.rotated(2 * half);
        }
        if random.coin() {
            case = case.normed();
        }
        if random.coin() {
            case = case.capped(1.0);
        }
        let operands = Operands::random(&case, &mut random);
        let expected = operands.naive();
        if !case.continues() {
            assert_close(case, operands.uncached(), &expected, operands.unit());
        }
        for format in [KvFormat::Arena(CacheType::F32), KvFormat::Tensors(DType::F32)] {
            assert_close((case, format), operands.cached(format), &expected, operands.unit());
        }
    }
}

/// The reference computes runs of sequences of one length together; the results stay in their places.
#[test]
fn sequences_of_one_length_stay_apart() {
    let lengths = [[3, 0], [3, 0], [0, 0], [5, 0], [5, 0], [5, 0], [0, 0], [0, 0], [3, 0], [1, 0], [1, 0]];
    for mask in [Mask::Causal, Mask::Full, Mask::Window(2), Mask::Local(1)] {
        let case = Case::new(&lengths, [4, 2], 6, mask).rotated(4).normed().capped(2.0);
        let operands = Operands::random(&case, &mut Random::new(1));
        let expected = operands.naive();
        assert_close(case, operands.uncached(), &expected, operands.unit());
        // With gradients, the CPU's kernel is not used.
        let recording = device().autodiff();
        let qkv = operands.rows(&operands.ends()).tensor(&recording);
        let rope = operands.rope(&operands.ends()).expect("rotated");
        let mut norms = operands.head_norms(DType::F32).expect("normed");
        norms.query = norms.query.to_device(recording.as_burn());
        norms.key = norms.key.to_device(recording.as_burn());
        let y = attention(qkv, &case.uncached(), None, Some(&rope), Some(&norms), &operands.options);
        assert_close((case, "reference"), y.inner(), &expected, operands.unit());
    }
}

/// A sequence's result does not depend on the other sequences of the batch.
#[test]
fn a_sequence_is_the_same_in_any_company() {
    if cpu().is_none() {
        return;
    }
    for case in TESTS {
        let operands = Operands::random(case, &mut Random::new(2));
        for cache in [None, Some(KvFormat::Arena(CacheType::F16))] {
            if cache.is_none() && case.continues() {
                continue;
            }
            let run = |operands: &Operands| cache.map_or_else(|| operands.uncached(), |format| operands.cached(format));
            let together = run(&operands);
            let mut first = 0;
            for (index, &[rows, past]) in case.sequences.iter().enumerate().filter(|(_, [rows, _])| *rows > 0) {
                let mut alone = operands.clone();
                (alone.shape, alone.qkv) = (vec![[rows, past]], vec![operands.qkv[index].clone()]);
                let own = together.clone().narrow(0, first, rows);
                assert_identical((case, index), own, run(&alone));
                first += rows;
            }
        }
    }
}

#[test]
fn scale_and_cap_are_the_callers() {
    let case = TESTS[2];
    let mut operands = Operands::random(&case, &mut Random::new(3));
    for (scale, soft_cap) in [(0.0, None), (0.25, None), (1.5, Some(0.5)), (1.5, Some(50.0))] {
        operands.options = AttentionOptions { scale, soft_cap, ..operands.options };
        let expected = operands.naive();
        assert_close((scale, soft_cap), operands.uncached(), &expected, operands.unit());
        let y = operands.cached(KvFormat::Tensors(DType::F32));
        assert_close((scale, soft_cap), y, &expected, operands.unit());
    }
    let options = AttentionOptions::causal(4, 2, 16);
    assert_eq!((options.scale, options.mask, options.soft_cap), (0.25, Mask::Causal, None));
    assert_eq!(options.qkv_columns(), 128);
    assert_eq!(AttentionOptions::bidirectional(4, 2, 16), AttentionOptions { mask: Mask::Full, ..options });
}

/// The scores are far beyond the range of an exponential: the softmax has to subtract the largest score.
#[test]
fn large_scores_do_not_overflow() {
    let mut operands = Operands::random(&TESTS[1], &mut Random::new(4));
    operands.options.scale = 256.0;
    // A score of hundreds is rounded to about 1e-4 of its size in the exponent.
    assert_close("uncached", operands.uncached(), &operands.naive(), 1e-3f64.max(unit(1)));
    let y = operands.cached(KvFormat::Arena(CacheType::F32));
    assert_close("kept", y, &operands.naive(), 1e-3f64.max(unit(1)));
}

#[test]
fn without_rows_there_is_no_result() {
    let Some(device) = cpu() else { return };
    let options = AttentionOptions::causal(2, 1, 4);
    for device in [device, &device.autodiff()] {
        for sequences in [Sequences::uncached(&[]), Sequences::uncached(&[0, 0])] {
            let qkv = Tensor::<2>::zeros([0, 16], device.as_burn());
            assert_eq!(attention(qkv, &sequences, None, None, None, &options).dims(), [0, 8]);
        }
    }
}

/// Columns of a wider projection, rows of a longer batch.
#[test]
fn views_are_read_where_they_lie() {
    let case = Case::new(&[[5, 0], [7, 0]], [4, 2], 6, Mask::Window(4));
    let operands = Operands::random(&case, &mut Random::new(5));
    let rows = operands.rows(&operands.ends());
    let wide = Array::from_fn([14, 60], |[row, column]| {
        let inside = (1..13).contains(&row) && (7..55).contains(&column);
        if inside { rows.at([row - 1, column - 7]) } else { 99.0 }
    });
    let qkv = wide.tensor(device()).narrow(0, 1, 12).narrow(1, 7, 48);
    let y = attention(qkv, &case.uncached(), None, None, None, &operands.options);
    assert_close(case, y, &operands.naive(), operands.unit());
}

/// Shader compilers may take it that there are neither, so only the CPU promises this.
#[test]
fn nan_and_infinity_travel() {
    if cpu().is_none() {
        return;
    }
    let case = Case::new(&[[3, 0], [4, 0]], [2, 1], 4, Mask::Causal);
    let mut operands = Operands::random(&case, &mut Random::new(6));
    // A component of the second head of a query of the first sequence, and of the first value of the second.
    operands.qkv[0].set([1, 6], f64::NAN);
    operands.qkv[1].set([0, 15], f64::INFINITY);
    for y in [operands.uncached(), operands.cached(KvFormat::Arena(CacheType::F32))] {
        let found = Array::read(y);
        for row in 0..7 {
            for column in 0..8 {
                let value = found.at([row, column]);
                let place = format!("at {row}, {column}: {value}");
                match (row, column) {
                    (1, 4..) => assert!(value.is_nan(), "{place}"),
                    (3.., 3 | 7) => assert!(value == f64::INFINITY, "{place}"),
                    _ => assert!(value.is_finite(), "{place}"),
                }
            }
        }
    }
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        for case in [TESTS[2], TESTS[3], TESTS[4]] {
            let mut operands = Operands::random(&case, &mut Random::new(7));
            let parts = operands.ends();
            for qkv in &mut operands.qkv {
                *qkv = qkv.rounded(device(), dtype).1;
            }
            let (rope, norms) = (operands.rope(&parts), operands.head_norms(dtype.into()));
            for format in [None, Some(KvFormat::Tensors(dtype.into())), Some(KvFormat::Arena(CacheType::F16))] {
                let mut pool = format.map(|format| Pool::new(&operands, format));
                let sequences = pool.as_ref().map_or_else(|| case.uncached(), |pool| pool.sequences(&parts));
                let qkv = operands.rows(&parts).tensor(device()).cast(DType::from(dtype));
                let kv = pool.as_mut().map(|pool| &mut pool.layer);
                let y = attention(qkv, &sequences, kv, rope.as_ref(), norms.as_ref(), &operands.options);
                assert_eq!(y.dtype(), dtype.into());
                // The tables and the norms' weights are rounded too.
                assert_close((dtype, case, format), y, &operands.naive(), 1.5 * HALF_UNIT);
            }
        }
    }
}

#[test]
fn gradients_follow_differences() {
    let Some(device) = cpu() else { return };
    for case in [
        Case::new(&[[3, 0], [2, 0]], [2, 1], 4, Mask::Causal).rotated(2).normed(),
        Case::new(&[[4, 0]], [2, 2], 3, Mask::Window(2)).capped(0.8),
        Case::new(&[[2, 0], [2, 0]], [2, 1], 3, Mask::Full),
        Case::new(&[[4, 0], [1, 0]], [1, 1], 4, Mask::Local(1)).rotated(4),
    ] {
        let mut random = Random::new(8);
        let operands = Operands::random(&case, &mut random);
        let parts = operands.ends();
        let qkv = operands.rows(&parts);
        let coefficients = Array::random([case.rows(), case.heads * case.head_dim], &mut random);
        let tracked = qkv.tracked(device);
        let rope = operands.rope(&parts);
        let weights = operands.norms.as_ref().map(|norms| norms.each_ref().map(|weight| weight.tracked(device)));
        let norms = weights.clone().map(|[query, key]| HeadNorms { query, key, epsilon: EPSILON });
        let y = attention(tracked.clone(), &case.uncached(), None, rope.as_ref(), norms.as_ref(), &operands.options);
        assert_close(case, y.clone().inner(), &operands.naive(), unit(1));
        let gradients = backward(y, &coefficients);
        assert_gradient(case, &gradients, &tracked, &qkv, |qkv| {
            let mut moved = operands.clone();
            let mut first = 0;
            for (own, &[from, to]) in moved.qkv.iter_mut().zip(&parts) {
                *own = qkv.narrow(0, first, to - from);
                first += to - from;
            }
            loss(&moved.naive(), &coefficients)
        });
        for (which, weight) in weights.iter().flatten().enumerate() {
            let at = operands.norms.as_ref().expect("normed")[which].clone();
            assert_gradient((case, which), &gradients, weight, &at, |weight| {
                let mut moved = operands.clone();
                moved.norms.as_mut().expect("normed")[which] = weight.clone();
                loss(&moved.naive(), &coefficients)
            });
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let qkv = |rows: usize, columns: usize| Tensor::<2>::zeros([rows, columns], device().as_burn());
    let options = AttentionOptions::causal(4, 2, 4);
    let three = Sequences::uncached(&[2, 1]);
    let run = |x: Tensor<2>, options: &AttentionOptions| attention(x, &three, None, None, None, options);
    assert_eq!(run(qkv(3, 32), &options).dims(), [3, 16], "these fit");
    assert_panics(&["attention:", "columns", "28", "32"], || run(qkv(3, 28), &options));
    assert_panics(&["attention:", "rows", "4", "3"], || run(qkv(4, 32), &options));
    for kv_heads in [0, 3] {
        let options = AttentionOptions { kv_heads, ..options };
        let heads = format!("4 heads for {kv_heads}");
        assert_panics(&["attention:", &heads], || run(qkv(3, options.qkv_columns()), &options));
    }
    let no_window = AttentionOptions { mask: Mask::Window(0), ..options };
    assert_panics(&["attention:", "window"], || run(qkv(3, 32), &no_window));

    let rotated = |rows: usize, half: usize| {
        let rope = RopeTables::new(vec![0.0; rows * half], vec![0.0; rows * half], [rows, half]);
        attention(qkv(3, 32), &three, None, Some(&rope), None, &options)
    };
    assert_panics(&["rope tables", "3 rows"], || RopeTables::new(vec![0.0; 6], vec![0.0; 3], [3, 2]));
    assert_panics(&["attention:", "[2, 2]", "3 rows"], || rotated(2, 2));
    assert_panics(&["attention:", "[3, 3]"], || rotated(3, 3));
    assert_panics(&["attention:", "norms", "[[4], [3]]", "[[4], [4]]"], || {
        let weight = |features: usize| Tensor::<1>::ones([features], device().as_burn());
        let norms = HeadNorms { query: weight(4), key: weight(3), epsilon: EPSILON };
        attention(qkv(3, 32), &three, None, None, Some(&norms), &options)
    });

    // The sequences have earlier tokens, and there is no memory that could hold them.
    let continued = Sequences::cached([(3, 5, &[0][..])]);
    assert_panics(&["continues from 5 tokens"], || attention(qkv(3, 32), &continued, None, None, None, &options));
}
