//! The loss and the gradients of whole models against torch's.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Int, Tensor};
use fornax_models::Network;

use crate::common::{Expected, assert_close, device, folder, load, values};

#[test]
fn loss_and_gradients() {
    let device = device();
    if device.is_gpu() {
        return;
    }
    for case in ["gpt2", "llama_gqa_tied"] {
        let expected = Expected::of(case);
        let model = load(&folder(case), &device);
        let names = model.family().weights;
        let Network::Decoder(decoder) = model.into_network() else { panic!("{case} is a decoder") };
        let decoder = decoder.train();

        let tokens = expected.id_tensor("input_ids", &device.autodiff());
        let [_, len] = tokens.dims();
        let hidden = decoder.forward(tokens.clone().narrow(1, 0, len - 1), None);
        let loss = cross_entropy(decoder.logits(hidden), tokens.narrow(1, 1, len - 1));
        assert_close(&format!("{case}, loss"), &values(loss.clone()), &expected.floats("loss"), 1e-5);

        let mut collector = Collector { gradients: loss.backward(), path: Vec::new(), found: Vec::new() };
        decoder.visit(&mut collector);
        let mut checked = 0;
        for (parameter, gradient) in collector.found {
            let (name, layout) = names.name(&parameter).expect("every parameter has a name");
            let key = format!("grad.{name}");
            // Parameters that are stored as parts of another tensor are compared where that one is whole.
            if layout == fornax_models::Layout::Same && expected.contains(&key) {
                assert_close(&format!("{case}, {key}"), &gradient, &expected.floats(&key), 1e-4);
                checked += 1;
            }
        }
        assert!(checked >= 2, "{case}: {checked} gradients compared of {:?}", expected.names());
    }
}

fn cross_entropy(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<1> {
    let [batch, seq, vocab] = logits.dims();
    let logits = burn::tensor::activation::log_softmax(logits.reshape([batch * seq, vocab]), 1);
    logits.gather(1, targets.reshape([batch * seq, 1])).mean().neg()
}

struct Collector {
    gradients: Gradients,
    path: Vec<String>,
    found: Vec<(String, Vec<f32>)>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(&self.gradients).expect("every parameter has a gradient");
        self.found.push((self.path.join("."), values(gradient)));
    }
}
