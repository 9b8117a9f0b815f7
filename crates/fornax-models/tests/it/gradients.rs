//! The loss and the gradients of whole models against torch's.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Int, Tensor};
use fornax_models::Network;

use super::common::{Expected, assert_close, batch, device, folder, load, values};

#[test]
fn loss_and_gradients() {
    let device = device();
    if device.is_gpu() {
        return;
    }
    for case in ["gpt2", "llama_gqa_tied", "gemma2"] {
        let expected = Expected::of(case);
        let model = load(&folder(case), &device);
        let names = model.family().weights;
        let Network::Decoder(decoder) = model.into_network() else { panic!("{case} is a decoder") };
        let decoder = decoder.train();

        let texts = expected.texts();
        let inputs: Vec<Vec<u32>> = texts.iter().map(|text| text[..text.len() - 1].to_vec()).collect();
        let targets: Vec<u32> = texts.iter().flat_map(|text| &text[1..]).copied().collect();
        let loss = cross_entropy(decoder.logits(decoder.forward(&batch(&inputs), None)), &targets);
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

fn cross_entropy(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let targets: Vec<i32> = targets.iter().map(|&target| target as i32).collect();
    let targets = Tensor::<1, Int>::from_data(targets.as_slice(), &logits.device()).reshape([targets.len(), 1]);
    burn::tensor::activation::log_softmax(logits, 1).gather(1, targets).mean().neg()
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
