//! A case: a small plan with values for all that it reads, and the two ways of comparing a backend on it.
//!
//! In lockstep, both machines get the same float32 operands before every operator, so that an error is that
//! operator's own; what it must overwrite is NaN before. As a whole, the plan runs as it would in a session, in
//! its arena, so that errors of placement and of left-over memory show.

use std::collections::HashMap;
use std::sync::Arc;

use oxigpt_compute::philox::Stream;
use oxigpt_compute::reference::Reference;
use oxigpt_compute::{
    Backend, Builder, Data, DataMut, Dtype, Op, PhaseId, Places, Plan, Precision, Role, Session, Tensor,
    TensorId,
};

use crate::{Make, Row, Tolerance, backends};

/// Words of the small classifier that closes most cases, and rows of its table.
const WORDS: (usize, usize) = (11, 16);

/// Values of a tensor before a plan runs.
#[derive(Clone)]
enum Values {
    Real(Vec<f32>),
    U32(Vec<u32>),
}

/// A plan being written, with the values of its inputs.
pub(crate) struct Draft {
    pub(crate) b: Builder,
    /// What messages call it.
    pub(crate) label: String,
    pub(crate) train: PhaseId,
    stream: Stream,
    values: HashMap<TensorId, Values>,
    slack: f64,
}

impl Draft {
    pub(crate) fn new(label: impl Into<String>) -> Self {
        let label = label.into();
        let seed = label.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let mut b = Builder::new();
        let train = b.begin("train");
        Draft { b, label, train, stream: Stream::new(seed, 0), values: HashMap::new(), slack: 1.0 }
    }

    /// Multiplies all tolerances, where the case is ill-conditioned by intent.
    pub(crate) fn slack(&mut self, factor: f64) {
        self.slack = factor;
    }

    /// Random words below `limit`.
    pub(crate) fn words(&mut self, name: &str, shape: &[usize], limit: usize) -> TensorId {
        let id = self.b.input_u32(name, shape, limit as u32);
        let len = shape.iter().product();
        let words = (0..len).map(|_| (self.stream.uniform() * limit as f64) as u32).collect();
        self.values.insert(id, Values::U32(words));
        id
    }

    pub(crate) fn counters(&mut self, name: &str, values: &[u32]) -> TensorId {
        let id = self.b.counters(name, &[values.len()]);
        self.values.insert(id, Values::U32(values.to_vec()));
        id
    }

    /// One integer below `limit`.
    pub(crate) fn index(&mut self, name: &str, value: usize, limit: usize) -> TensorId {
        let id = self.b.input_u32(name, &[1], limit as u32);
        self.values.insert(id, Values::U32(vec![value as u32]));
        id
    }

    /// Texts and positions of `[B, T]` rows in a cache of `[X, S]`.
    pub(crate) fn places(
        &mut self,
        [batch, t]: [usize; 2],
        [x, s]: [usize; 2],
        place: impl Fn(usize, usize) -> (usize, usize),
    ) -> Places {
        let rows = (0..batch).flat_map(|b| (0..t).map(move |i| (b, i)));
        let (texts, positions): (Vec<u32>, Vec<u32>) =
            rows.map(|(b, i)| place(b, i)).map(|(text, position)| (text as u32, position as u32)).unzip();
        let mut input = |name: &str, limit: usize, values: Vec<u32>| {
            let name = format!("{name} {}", self.values.len());
            let id = self.b.input_u32(&name, &[batch, t], limit as u32);
            self.values.insert(id, Values::U32(values));
            id
        };
        Places { texts: input("texts", x + 1, texts), positions: input("positions", s, positions) }
    }

    pub(crate) fn reals(&mut self, name: &str, values: &[f32]) -> TensorId {
        let id = self.b.input(name, &[values.len()]);
        self.values.insert(id, Values::Real(values.to_vec()));
        id
    }

    /// A random input of a given mean and deviation.
    pub(crate) fn normal(&mut self, name: &str, shape: &[usize], mean: f64, deviation: f64) -> TensorId {
        let id = self.b.input(name, shape);
        let values = normals(&mut self.stream, shape.iter().product());
        let values = values.into_iter().map(|x| (mean + deviation * f64::from(x)) as f32).collect();
        self.values.insert(id, Values::Real(values));
        id
    }

    /// Puts a classifier on `x`, appends the adjoints, and a second phase that adds to the gradients.
    pub(crate) fn close(self, x: TensorId) -> Case {
        self.close_with(x, WORDS)
    }

    pub(crate) fn close_with(mut self, x: TensorId, (words, padded): (usize, usize)) -> Case {
        let (rows, width) = (self.b.shape(x).to_vec(), *self.b.shape(x).last().unwrap());
        let head = self.b.parameter("head", &[padded, width]);
        self.close_tied(x, &rows[..rows.len() - 1], head, words)
    }

    pub(crate) fn close_tied(mut self, x: TensorId, rows: &[usize], head: TensorId, words: usize) -> Case {
        let targets = self.words("targets", rows, words);
        let losses = self.b.classifier(x, head, targets, words);
        self.b.backward(&[(losses, 1.0)]);
        self.b.accumulating(self.train, "accumulate");
        self.finish()
    }

    pub(crate) fn finish(mut self) -> Case {
        let plan = self.b.finish();
        for (id, tensor) in plan.tensors() {
            if tensor.dtype != Dtype::U32 && !tensor.role.is_transient() && !self.values.contains_key(&id) {
                let values = initial(tensor, normals(&mut self.stream, tensor.len()));
                self.values.insert(id, Values::Real(values));
            }
        }
        Case { label: self.label, plan: Arc::new(plan), values: self.values, slack: self.slack }
    }
}

/// Matrices scaled so that a product keeps the size of its input; second moments positive.
fn initial(tensor: &Tensor, normals: Vec<f32>) -> Vec<f32> {
    let scale = (tensor.width() as f32).sqrt().recip();
    match tensor.role {
        Role::Parameter if tensor.shape.len() >= 2 => normals.iter().map(|x| x * scale).collect(),
        Role::Moment if tensor.name.starts_with("v.") => normals.iter().map(|x| x.abs()).collect(),
        _ => normals,
    }
}

fn normals(stream: &mut Stream, len: usize) -> Vec<f32> {
    let pairs = (0..len.div_ceil(2)).flat_map(|_| <[f64; 2]>::from(stream.normal_pair()));
    pairs.take(len).map(|x| x as f32).collect()
}

/// A finished plan with the values of all that outlives a phase.
pub(crate) struct Case {
    pub(crate) label: String,
    pub(crate) plan: Arc<Plan>,
    values: HashMap<TensorId, Values>,
    slack: f64,
}

impl Case {
    /// Compares every backend with `reference`, operator by operator and as a whole, and its variants and
    /// reruns with each other, bit by bit.
    pub(crate) fn check(&self) {
        self.check_precision();
        self.in_bfloat16().check_precision();
    }

    pub(crate) fn in_bfloat16(&self) -> Case {
        let plan = Plan::clone(&self.plan).with_precision(Precision::Bfloat16);
        let label = format!("{}, bfloat16", self.label);
        Case { label, plan: Arc::new(plan), values: self.values.clone(), slack: self.slack }
    }

    fn check_precision(&self) {
        self.check_on(&backends());
    }

    /// The comparison on some backends alone, in the precision of the plan.
    pub(crate) fn check_on(&self, rows: &[Row]) {
        let precision = self.plan.precision();
        let expected = self.run(|| Box::new(Reference::new()));
        for row in rows {
            self.lockstep(row);
            let (label, make) = row.variants[0];
            let found = self.run(make);
            let whole_step = row.whole_step[precision as usize];
            let tolerance = Tolerance { relative: whole_step, absolute: 1e-2 * whole_step };
            for (id, found) in &found {
                let what = format!("{label}, whole plan, {}", self.label);
                self.compare(&what, *id, &expected[id], found, tolerance);
            }
            for (other, make) in &row.variants {
                let again = self.run(*make);
                for (id, found) in &found {
                    let name = &self.plan.tensor(*id).name;
                    let same = found.iter().zip(&again[id]).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{}: `{name}` differs between {label} and {other}", self.label);
                }
            }
        }
    }

    fn lockstep(&self, row: &Row) {
        let (label, make) = row.variants[0];
        let mut pair = [Box::new(Reference::new()) as Box<dyn Backend>, make()];
        for backend in &mut pair {
            backend.prepare(self.plan.clone()).unwrap();
            self.values.iter().for_each(|(id, values)| upload(backend.as_mut(), *id, values));
        }
        let [reference, backend] = &mut pair;
        for op in self.plan.phases().flat_map(|(_, phase)| &phase.ops) {
            let operands = op.operands();
            operands.reads.iter().for_each(|&id| self.share(id, reference.as_mut(), backend.as_mut()));
            for &id in &operands.writes {
                if keeps(op, id, self.plan.tensor(id).role) {
                    self.share(id, reference.as_mut(), backend.as_mut());
                } else {
                    backend.upload(id, Data::F32(&vec![f32::NAN; self.plan.tensor(id).len()])).unwrap();
                }
            }
            reference.execute(op);
            backend.execute(op);
            for &id in operands.writes.iter().filter(|id| self.plan.tensor(**id).role != Role::Workspace) {
                let what = format!("{label}, {}, {}", op.name(), self.label);
                let (expected, found) = (self.read(reference.as_ref(), id), self.read(backend.as_ref(), id));
                self.compare(&what, id, &expected, &found, (row.tolerance)(op.name(), self.plan.precision()));
            }
        }
    }

    /// Gives both machines the reference's values, as the backend keeps them.
    fn share(&self, id: TensorId, reference: &mut dyn Backend, backend: &mut dyn Backend) {
        if self.plan.tensor(id).dtype != Dtype::U32 {
            let mut values = vec![0f32; self.plan.tensor(id).len()];
            reference.download(id, DataMut::F32(&mut values)).unwrap();
            backend.upload(id, Data::F32(&values)).unwrap();
            backend.download(id, DataMut::F32(&mut values)).unwrap();
            reference.upload(id, Data::F32(&values)).unwrap();
        }
    }

    fn read(&self, backend: &dyn Backend, id: TensorId) -> Vec<f64> {
        let mut values = vec![0f64; self.plan.tensor(id).len()];
        backend.download(id, DataMut::F64(&mut values)).unwrap();
        values
    }

    /// A session with all values uploaded, whose transient memory is NaN.
    pub(crate) fn session(&self, make: Make) -> Session {
        let mut session = Session::new((*self.plan).clone(), make()).unwrap();
        for (id, tensor) in self.plan.tensors().filter(|(_, t)| t.role.is_transient()) {
            session.upload(id, Data::F32(&vec![f32::NAN; tensor.len()])).unwrap();
        }
        for (id, values) in &self.values {
            session.upload(*id, values.data()).unwrap();
        }
        session
    }

    /// Runs all phases; gives all real tensors that outlive a phase.
    pub(crate) fn run(&self, make: Make) -> HashMap<TensorId, Vec<f64>> {
        let mut session = self.session(make);
        self.plan.phases().for_each(|(phase, _)| session.run(phase));
        let lasting = self.plan.tensors().filter(|(_, t)| t.dtype != Dtype::U32 && !t.role.is_transient());
        lasting.map(|(id, _)| (id, download(&session, id))).collect()
    }

    /// The tensor of a name.
    pub(crate) fn id(&self, name: &str) -> TensorId {
        self.plan.tensors().find(|(_, t)| t.name == name).unwrap_or_else(|| panic!("no tensor `{name}`")).0
    }

    /// The phase of a name.
    pub(crate) fn phase(&self, name: &str) -> PhaseId {
        self.plan.phases().find(|(_, p)| p.name == name).unwrap_or_else(|| panic!("no phase `{name}`")).0
    }

    /// Names of all trained parameters.
    pub(crate) fn parameters(&self) -> Vec<String> {
        let gradients = self.plan.tensors().filter(|(_, t)| t.role == Role::Gradient);
        gradients.filter_map(|(_, t)| Some(t.name.strip_prefix("d.")?.to_owned())).collect()
    }

    /// The values that a real tensor has before the plan runs.
    pub(crate) fn reals(&self, name: &str) -> &[f32] {
        match &self.values[&self.id(name)] {
            Values::Real(values) => values,
            Values::U32(_) => panic!("`{name}` holds integers"),
        }
    }

    /// The values of an integer input.
    pub(crate) fn integers(&self, name: &str) -> &[u32] {
        match &self.values[&self.id(name)] {
            Values::U32(values) => values,
            Values::Real(_) => panic!("`{name}` holds reals"),
        }
    }

    fn compare(&self, what: &str, id: TensorId, expected: &[f64], found: &[f64], tolerance: Tolerance) {
        let Tolerance { relative, absolute } = tolerance;
        let tensor = self.plan.tensor(id);
        let float32 = relative * norm(expected) + absolute * (expected.len() as f64).sqrt();
        let flips = if tensor.dtype == Dtype::Bf16 { other_neighbours(expected) } else { 0.0 };
        let bound = self.slack * float32 + flips;
        let error = distance(expected, found);
        assert!(
            error <= bound,
            "{what}: `{}` {:?} is off by {error:.3e} (norm {:.3e}, allowed {bound:.3e})",
            tensor.name,
            tensor.shape,
            norm(expected),
        );
    }
}

/// The distance where one number in 64 (and one at least) is rounded to its other neighbour, which an error in the last
/// place of a float32 can do.
fn other_neighbours(expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    largest / 128.0 * (1.0 + expected.len() as f64 / 64.0).sqrt()
}

impl Values {
    fn data(&self) -> Data<'_> {
        match self {
            Values::Real(v) => Data::F32(v),
            Values::U32(v) => Data::U32(v),
        }
    }
}

/// A whole tensor in float64.
pub(crate) fn download(session: &Session, id: TensorId) -> Vec<f64> {
    let mut values = vec![0f64; session.plan().tensor(id).len()];
    session.download_f64(id, &mut values).unwrap();
    values
}

fn upload(backend: &mut dyn Backend, id: TensorId, values: &Values) {
    backend.upload(id, values.data()).unwrap();
}

/// Whether `op` reads the tensor that it writes.
fn keeps(op: &Op, id: TensorId, role: Role) -> bool {
    match op {
        Op::EmbedBackward { dwte, dwpe, accumulate_wte, accumulate_wpe, .. } => {
            id == *dwte && *accumulate_wte || id == *dwpe && *accumulate_wpe
        }
        Op::LayerNormBackward { dx, accumulate, .. } => id != *dx && *accumulate,
        Op::LinearBackwardWeight { dw, accumulate_w, accumulate_bias, .. } => {
            if id == *dw {
                *accumulate_w
            } else {
                *accumulate_bias
            }
        }
        Op::Classifier { grad: Some(grad), .. } => Some(id) == grad.dw && grad.accumulate,
        _ => matches!(role, Role::Parameter | Role::Moment | Role::Cache),
    }
}

/// Euclidean norm.
pub(crate) fn norm(a: &[f64]) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Euclidean distance.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}
