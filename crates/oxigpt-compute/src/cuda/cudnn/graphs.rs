//! Causal softmax attention and its adjoint, as the graphs in which cuDNN recognises flash attention.
//!
//! cuDNN matches patterns: a graph of the same value with an operation elsewhere is refused. Nothing [B, H, T, T] is in
//! memory, but for what an adjoint keeps in its workspace so that each sum has one order.
//!
//! Legend: B batch, H heads, T positions, D width of a head; q, k, v lie in one tensor [B, T, 3, H, D].

use super::graph::{Graph, Id, Number, Operand, Place, Pointwise, Reduction, Tensor};
use crate::cuda::attention::Sizes;

/// `out` and the statistics of rows, from `q`, `k` and `v`.
pub(super) fn forward(sizes: Sizes) -> Graph {
    let mut g = Draft { graph: Graph::default(), sizes };
    let (q, k, v) = (g.rows(Operand::Q), g.columns(Operand::K), g.rows(Operand::V));
    let (out, lse) = (g.rows(Operand::Out), g.statistic(Place::Memory(Operand::Lse)));
    let scores = g.causal_scores(q, k, None);
    let largest = g.reduce(Reduction::Max, scores);
    let shifted = g.on_pairs(Pointwise::Subtract, &[scores, largest], Number::F32);
    let exponentials = g.on_pairs(Pointwise::Exp, &[shifted], Number::F32);
    let sum = g.reduce(Reduction::Sum, exponentials);
    let log = g.statistic(Place::Virtual);
    g.graph.pointwise(Pointwise::Log, &[sum], log);
    g.graph.pointwise(Pointwise::Add, &[largest, log], lse);
    let weights = g.on_pairs(Pointwise::Divide, &[exponentials, sum], Number::Bf16);
    g.graph.matmul(weights, v, out);
    g.graph
}

/// Gradients of `q`, `k` and `v`, from what `forward` read and wrote and the gradient of `out`. In any order, that of `q` is
/// added up in memory of its own by whoever comes first.
pub(super) fn backward(sizes: Sizes, in_any_order: bool) -> Graph {
    let mut g = Draft { graph: Graph::default(), sizes };
    let (q, k, v) = (g.rows(Operand::Q), g.columns(Operand::K), g.columns(Operand::V));
    let (out, dout) = (g.rows(Operand::Out), g.rows(Operand::Dout));
    let [dq, dk, dv] = [Operand::Dq, Operand::Dk, Operand::Dv].map(|operand| g.rows(operand));
    let lse = g.statistic(Place::Memory(Operand::Lse));
    let delta = g.delta(out, dout);
    let scores = g.causal_scores(q, k, Some(lse));
    let weights = g.on_pairs(Pointwise::Exp, &[scores], Number::F32);
    let transposed = g.transpose(weights);
    g.graph.matmul(transposed, dout, dv);
    let pairs = g.pairs(Number::F32);
    let dweights = g.graph.matmul(dout, v, pairs);
    let centred = g.on_pairs(Pointwise::Subtract, &[dweights, delta], Number::F32);
    let dscores = g.on_pairs(Pointwise::Multiply, &[centred, weights], Number::F32);
    let scale = g.scale();
    let dscores = g.on_pairs(Pointwise::Multiply, &[dscores, scale], Number::Bf16);
    let transposed = g.transpose(dscores);
    g.graph.matmul(transposed, q, dk);
    let k_rows = g.graph.tensor(Tensor { place: Place::Virtual, ..g.rows_of(Operand::K) });
    let k_rows = g.graph.reshape(k, k_rows);
    if in_any_order {
        let sums = g.sums();
        g.graph.matmul(dscores, k_rows, sums);
        g.graph.pointwise(Pointwise::Identity, &[sums], dq);
    } else {
        g.graph.matmul(dscores, k_rows, dq);
    }
    g.graph
}

/// A graph being written.
struct Draft {
    graph: Graph,
    sizes: Sizes,
}

impl Draft {
    /// One row of D numbers for each head and position, as the operand lies in memory.
    fn rows_of(&self, operand: Operand) -> Tensor {
        let Sizes { batch, t, heads, d } = self.sizes;
        let is_packed = !matches!(operand, Operand::Out | Operand::Dout);
        let row = if is_packed { 3 * heads * d } else { heads * d };
        let place = Place::Memory(operand);
        Tensor { dims: [batch, heads, t, d], strides: [t * row, d, row, 1], number: Number::Bf16, place }
    }

    fn rows(&mut self, operand: Operand) -> Id {
        let rows = self.rows_of(operand);
        self.graph.tensor(rows)
    }

    /// The transpose of [`Draft::rows`].
    fn columns(&mut self, operand: Operand) -> Id {
        let mut columns = self.rows_of(operand);
        columns.dims.swap(2, 3);
        columns.strides.swap(2, 3);
        self.graph.tensor(columns)
    }

    /// Float32 for each number of `q`, heads after heads.
    fn sums(&mut self) -> Id {
        let Sizes { batch, t, heads, d } = self.sizes;
        let (dims, strides) = ([batch, heads, t, d], [heads * t * d, t * d, d, 1]);
        self.graph.tensor(Tensor {
            dims,
            strides,
            number: Number::F32,
            place: Place::Memory(Operand::DqSums),
        })
    }

    /// One number for each row.
    fn statistic(&mut self, place: Place) -> Id {
        let Sizes { batch, t, heads, .. } = self.sizes;
        let (dims, strides) = ([batch, heads, t, 1], [heads * t, t, 1, 1]);
        self.graph.tensor(Tensor { dims, strides, number: Number::F32, place })
    }

    /// One number for each pair of query and key.
    fn pairs_of(&self, number: Number) -> Tensor {
        let Sizes { batch, t, heads, .. } = self.sizes;
        let (dims, strides) = ([batch, heads, t, t], [heads * t * t, t * t, t, 1]);
        Tensor { dims, strides, number, place: Place::Virtual }
    }

    fn pairs(&mut self, number: Number) -> Id {
        let pairs = self.pairs_of(number);
        self.graph.tensor(pairs)
    }

    fn value(&mut self, value: f32) -> Id {
        let (dims, strides) = ([1; 4], [1; 4]);
        self.graph.tensor(Tensor { dims, strides, number: Number::F32, place: Place::Value(value) })
    }

    fn scale(&mut self) -> Id {
        self.value(1.0 / (self.sizes.d as f32).sqrt())
    }

    fn on_pairs(&mut self, mode: Pointwise, inputs: &[Id], number: Number) -> Id {
        let out = self.pairs(number);
        self.graph.pointwise(mode, inputs, out)
    }

    fn reduce(&mut self, reduction: Reduction, x: Id) -> Id {
        let out = self.statistic(Place::Virtual);
        self.graph.reduce(reduction, x, out)
    }

    /// Pairs of key and query from pairs of query and key.
    fn transpose(&mut self, pairs: Id) -> Id {
        let mut transposed = self.pairs_of(Number::Bf16);
        transposed.strides.swap(2, 3);
        let out = self.graph.tensor(transposed);
        self.graph.reshape(pairs, out)
    }

    /// Scaled products of queries and keys, less the statistics of rows if any; minus infinity for keys to come.
    fn causal_scores(&mut self, q: Id, k: Id, lse: Option<Id>) -> Id {
        let pairs = self.pairs(Number::F32);
        let products = self.graph.matmul(q, k, pairs);
        let scale = self.scale();
        let mut scores = self.on_pairs(Pointwise::Multiply, &[products, scale], Number::F32);
        if let Some(lse) = lse {
            scores = self.on_pairs(Pointwise::Subtract, &[scores, lse], Number::F32);
        }
        let query = self.on_pairs(Pointwise::Index(2), &[scores], Number::I32);
        let key = self.on_pairs(Pointwise::Index(3), &[scores], Number::I32);
        let seen = self.on_pairs(Pointwise::GreaterOrEqual, &[query, key], Number::Bool);
        let never = self.value(f32::NEG_INFINITY);
        self.on_pairs(Pointwise::Select, &[scores, never, seen], Number::F32)
    }

    /// The sum of `out * dout` of each row. The pattern has a factor for dropout, which is 1.
    fn delta(&mut self, out: Id, dout: Id) -> Id {
        let mut products = self.rows_of(Operand::Out);
        let Sizes { t, heads, d, .. } = self.sizes;
        (products.strides, products.number) = ([heads * t * d, t * d, heads * d, 1], Number::F32);
        products.place = Place::Virtual;
        let products = self.graph.tensor(products);
        self.graph.pointwise(Pointwise::Multiply, &[dout, out], products);
        let sums = self.reduce(Reduction::Sum, products);
        let (one, delta) = (self.value(1.0), self.statistic(Place::Memory(Operand::Delta)));
        self.graph.pointwise(Pointwise::Multiply, &[sums, one], delta)
    }
}
