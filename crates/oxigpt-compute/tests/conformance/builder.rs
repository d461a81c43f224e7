//! What the builder promises: which operators fuse, what a plan costs, and that its errors are caught.

use oxigpt_compute::{
    AdamWConfig, AttentionKind, Builder, Gelu, LinearWeights, NormWeights, Op, Places, Plan, Role, TensorId,
};

fn names(plan: &Plan) -> Vec<&'static str> {
    plan.phases().flat_map(|(_, phase)| phase.ops.iter().map(Op::name)).collect()
}

fn two_inputs(b: &mut Builder) -> (TensorId, TensorId) {
    b.begin("forward");
    (b.input("x", &[2, 3, 4]), b.input("y", &[2, 3, 4]))
}

fn norm(b: &mut Builder) -> NormWeights {
    NormWeights { weight: b.parameter("weight", &[4]), bias: None }
}

#[test]
fn add_and_layer_norm_fuse() {
    let mut b = Builder::new();
    let (x, y) = two_inputs(&mut b);
    let norm = norm(&mut b);
    let sum = b.add(x, y);
    b.layer_norm(sum, norm);
    assert_eq!(names(&b.finish()), ["add_layer_norm"]);
}

#[test]
fn layer_norm_of_another_tensor_than_the_sum_does_not_fuse() {
    let mut b = Builder::new();
    let (x, y) = two_inputs(&mut b);
    let norm = norm(&mut b);
    b.add(x, y);
    b.layer_norm(x, norm);
    assert_eq!(names(&b.finish()), ["add", "layer_norm"]);
}

#[test]
fn linear_and_gelu_fuse_once() {
    let mut b = Builder::new();
    let (x, _) = two_inputs(&mut b);
    let w = b.parameter("w", &[4, 5]);
    let up = b.linear(x, LinearWeights { w, bias: None });
    let first = b.gelu(up, Gelu::Tanh);
    b.gelu(first, Gelu::Erf);
    b.gelu(up, Gelu::Erf);
    assert_eq!(names(&b.finish()), ["linear_gelu", "gelu", "gelu"]);
}

#[test]
fn nothing_fuses_over_the_end_of_a_phase() {
    let mut b = Builder::new();
    let (x, y) = two_inputs(&mut b);
    let norm = norm(&mut b);
    let sum = b.add(x, y);
    b.mark_output(sum);
    b.begin("next");
    b.layer_norm(sum, norm);
    assert_eq!(names(&b.finish()), ["add", "layer_norm"]);
}

#[test]
fn backward_writes_the_adjoints_in_reverse() {
    let mut b = Builder::new();
    let (x, y) = two_inputs(&mut b);
    let norm = norm(&mut b);
    let (w, head) = (b.parameter("w", &[4, 4]), b.parameter("head", &[8, 4]));
    let sum = b.add(x, y);
    let normed = b.layer_norm(sum, norm);
    let up = b.linear(normed, LinearWeights { w, bias: None });
    let up = b.gelu(up, Gelu::Tanh);
    let targets = b.input_u32("targets", &[2, 3], 8);
    let losses = b.classifier(up, head, targets, 8);
    b.backward(&[(losses, 1.0)]);
    let expected = [
        "add_layer_norm",
        "linear_gelu",
        "classifier",
        "gelu_backward",
        "linear_backward_input",
        "linear_backward_weight",
        "layer_norm_backward",
    ];
    assert_eq!(names(&b.finish()), expected);
}

/// The adjoint of a GELU rides on the product that reads its result, if nobody else does; and what it was applied to may have
/// other readers.
#[test]
fn adjoints_of_gelu_ride_on_products() {
    let adjoints = |read_twice: bool, sum_up: bool| {
        let mut b = Builder::new();
        let (x, _) = two_inputs(&mut b);
        let [first, second, head] = ["first", "second", "head"].map(|name| b.parameter(name, &[4, 4]));
        let up = b.linear(x, LinearWeights { w: first, bias: None });
        let active = b.gelu(up, Gelu::Tanh);
        let mut down = b.linear(active, LinearWeights { w: second, bias: None });
        for more in [(read_twice, active), (sum_up, up)].into_iter().filter(|(wanted, _)| *wanted) {
            down = b.add(down, more.1);
        }
        let targets = b.input_u32("targets", &[2, 3], 4);
        let losses = b.classifier(down, head, targets, 4);
        b.backward(&[(losses, 1.0)]);
        let names = names(&b.finish());
        names.into_iter().skip_while(|name| *name != "classifier").skip(1).collect::<Vec<_>>()
    };
    let [input, input_gelu, weight] =
        ["linear_backward_input", "linear_backward_input_gelu", "linear_backward_weight"];
    assert_eq!(adjoints(false, false), [input_gelu, weight, input, weight]);
    assert_eq!(adjoints(true, false), [input, "add", weight, "gelu_backward", input, weight]);
    assert_eq!(adjoints(false, true), [input_gelu, "add", weight, input, weight]);
}

/// What would only serve to find the gradient of a frozen weight is not computed, and nothing at all before the first
/// trained one. A frozen weight has neither gradient nor moments.
#[test]
fn frozen_weights_cost_nothing_backwards() {
    let mut b = Builder::new();
    let phase = b.begin("train");
    let (wte, wpe) = (b.frozen("wte", &[8, 4]), b.frozen("wpe", &[3, 4]));
    let norm = NormWeights { weight: b.frozen("weight", &[4]), bias: Some(b.frozen("bias", &[4])) };
    let [early, late] =
        ["early", "late"].map(|name| LinearWeights { w: b.frozen(name, &[4, 4]), bias: None });
    let trained = LinearWeights { w: b.parameter("trained", &[4, 4]), bias: None };
    let [tokens, targets] = ["tokens", "targets"].map(|name| b.input_u32(name, &[2, 3], 8));

    let x = b.embed(tokens, None, wte, wpe);
    let x = b.linear(x, early);
    let x = b.linear(x, trained);
    let x = b.layer_norm(x, norm);
    let x = b.linear(x, late);
    let losses = b.classifier(x, wte, targets, 8);
    b.backward(&[(losses, 1.0)]);
    let gradients = b.grad_norm();
    let schedule = b.input("schedule", &[3]);
    let config = AdamWConfig { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, grad_clip: 1.0 };
    b.adamw(gradients, schedule, config);
    let plan = b.finish();
    assert_eq!(
        names(&plan)[6..],
        [
            "linear_backward_input",  // of `late`
            "layer_norm_backward",    // without gradients of its own
            "linear_backward_weight", // of `trained`
            "grad_norm",
            "adamw",
        ]
    );
    // Two products of the classifier, and not the third.
    assert_eq!(plan.phase(phase).ops[5].cost(&plan).flops, 2.0 * 2.0 * 6.0 * 8.0 * 4.0);
    let bytes = |role| plan.memory_by_role()[&role];
    assert_eq!((bytes(Role::Gradient), bytes(Role::Moment)), (64, 128));
    assert!(bytes(Role::Parameter) > 5 * 64);
}

/// B = 2, T = 8, C = 4, two heads, V = 64.
#[test]
fn costs_of_a_small_plan() {
    let mut b = Builder::new();
    let phase = b.begin("train");
    let x = b.input("x", &[2, 8, 4]);
    let (w, head) = (b.parameter("w", &[4, 12]), b.parameter("head", &[64, 4]));
    let targets = b.input_u32("targets", &[2, 8], 64);
    let qkv = b.linear(x, LinearWeights { w, bias: None });
    let y = b.attention(qkv, 2, AttentionKind::Softmax, None);
    let losses = b.classifier(y, head, targets, 64);
    b.backward(&[(losses, 1.0)]);
    let plan = b.finish();

    let linear = 2.0 * 16.0 * 4.0 * 12.0;
    // Pairs of a query and a key no later than it, per sequence: 8 * 9 / 2; a product costs 2 C a pair.
    let pairs = 2.0 * 36.0 * 2.0 * 4.0;
    let classifier = 2.0 * 16.0 * 64.0 * 4.0;
    let flops: Vec<f64> = plan.phase(phase).ops.iter().map(|op| op.cost(&plan).flops).collect();
    assert_eq!(flops, [linear, 2.0 * pairs, 3.0 * classifier, 5.0 * pairs, linear, linear]);
    let total = plan.cost(phase);
    assert_eq!(total.flops, flops.iter().sum::<f64>());
    // The first linear operator moves x, w and qkv, 4 bytes each element.
    assert_eq!(plan.phase(phase).ops[0].cost(&plan).bytes, 4.0 * (64.0 + 48.0 + 192.0));
}

/// The message of the panic of a programmer's error.
fn refused(build: impl FnOnce(&mut Builder) + std::panic::UnwindSafe) -> String {
    let error = std::panic::catch_unwind(|| {
        let mut b = Builder::new();
        b.begin("train");
        build(&mut b);
        b.finish()
    });
    let message = error.expect_err("a panic");
    let fixed = message.downcast_ref::<&str>().map(|m| (*m).to_owned());
    fixed.unwrap_or_else(|| *message.downcast::<String>().expect("a message"))
}

#[test]
fn shapes_and_limits_are_checked() {
    let message = refused(|b| {
        let (x, w) = (b.input("x", &[2, 3, 4]), b.parameter("w", &[5, 5]));
        b.linear(x, LinearWeights { w, bias: None });
    });
    assert!(message.contains("linear of another width"), "{message}");

    let message = refused(|b| {
        let (wte, wpe) = (b.parameter("wte", &[9, 4]), b.parameter("wpe", &[3, 4]));
        let tokens = b.input_u32("tokens", &[1, 3], 10);
        b.embed(tokens, None, wte, wpe);
    });
    assert_eq!(message, "`tokens` is not known to be below 9");

    let message = refused(|b| {
        let (x, row) = (b.input("x", &[2, 3, 4]), b.counters("row", &[1]));
        b.select_row(x, row);
    });
    assert_eq!(message, "`row` is not known to be below 3");

    let message = refused(|b| {
        let caches = (b.cache("k", &[1, 8, 4]), b.cache("v", &[1, 8, 4]));
        let (qkv, texts) = (b.input("qkv", &[1, 2, 12]), b.input_u32("texts", &[1, 2], 2));
        let places = Places { texts, positions: b.input_u32("positions", &[1, 2], 9) };
        b.cached_attention(qkv, caches, (places, None), 2, AttentionKind::Softmax);
    });
    assert_eq!(message, "`positions` is not known to be below 8");
}

#[test]
fn reading_what_another_phase_wrote_is_refused() {
    let message = refused(|b| {
        let x = b.input("x", &[2, 3, 4]);
        let y = b.gelu(x, Gelu::Tanh);
        b.begin("next");
        b.gelu(y, Gelu::Tanh);
    });
    assert_eq!(message, "`gelu` is read by gelu but not written in `next`");
}

/// No gradient is lost in silence.
#[test]
fn backward_refuses_what_it_cannot_differentiate() {
    let losses = |b: &mut Builder, x: TensorId| {
        let rows = b.shape(x)[0];
        let (head, targets) = (b.parameter("head", &[8, 4]), b.input_u32("targets", &[rows], 8));
        let losses = b.classifier(x, head, targets, 8);
        b.backward(&[(losses, 1.0)]);
        losses
    };
    let message = refused(|b| {
        let (x, row) = (b.input("x", &[2, 3, 4]), b.input_u32("row", &[1], 3));
        let y = b.select_row(x, row);
        losses(b, y);
    });
    assert_eq!(message, "select_row has no adjoint");

    let message = refused(|b| {
        let (x, start) = (b.input("x", &[2, 4]), b.parameter("start", &[2, 4]));
        let y = b.add(x, start);
        losses(b, y);
    });
    assert_eq!(message, "parameter `start` is used as an activation");

    let message = refused(|b| {
        let x = b.input("x", &[2, 4]);
        let losses = losses(b, x);
        b.backward(&[(losses, 1.0)]);
    });
    assert!(message.contains("this phase has its adjoints already"), "{message}");
}
