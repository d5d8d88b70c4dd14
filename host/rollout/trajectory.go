package rollout

import (
	"slices"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// trajectory collects the observation before every action, and the action. A nil trajectory collects nothing.
type trajectory struct {
	cameras []string
	demo    policy.Demonstration
}

func newTrajectory(id string, cameras []string) *trajectory {
	return &trajectory{cameras: cameras, demo: policy.Demonstration{ID: id, Images: map[string]plugins.Tensor{}}}
}

// observe adds the observation before the next action. It copies, because images alias shared memory until the lane's
// next call.
func (t *trajectory) observe(o env.Observation) {
	if t == nil {
		return
	}
	t.demo.Instruction = o.Instruction
	for _, c := range t.cameras {
		t.demo.Images[c] = appendRow(t.demo.Images[c], o.Images[c])
	}
	if !o.Proprio.IsZero() {
		t.demo.Proprio = appendRow(t.demo.Proprio, o.Proprio)
	}
}

// act adds an action, float32 [1, dim].
func (t *trajectory) act(action plugins.Tensor) {
	row := plugins.Tensor{DType: action.DType, Shape: action.Shape[1:], Data: action.Data}
	t.demo.Actions = appendRow(t.demo.Actions, row)
}

// demonstration returns the whole trajectory, nil when it has no action. It drops the observation before a step
// that an expert did not take because it gave up.
func (t *trajectory) demonstration(success bool) *policy.Demonstration {
	if t == nil || t.demo.Actions.IsZero() {
		return nil
	}
	d := &t.demo
	n := d.Actions.Shape[0]
	for c, img := range d.Images {
		d.Images[c] = firstRows(img, n)
	}
	if !d.Proprio.IsZero() {
		d.Proprio = firstRows(d.Proprio, n)
	}
	d.Success = success
	return d
}

// appendRow appends a copy of row, of shape s, to t, of shape [n, s...].
func appendRow(t, row plugins.Tensor) plugins.Tensor {
	if t.IsZero() {
		t = plugins.Tensor{DType: row.DType, Shape: append([]int{0}, row.Shape...)}
	}
	t.Data = append(t.Data, row.Data...)
	t.Shape = slices.Clone(t.Shape)
	t.Shape[0]++
	return t
}

func firstRows(t plugins.Tensor, n int) plugins.Tensor {
	size := len(t.Data) / t.Shape[0]
	t.Shape = append([]int{n}, t.Shape[1:]...)
	t.Data = t.Data[:n*size]
	return t
}

// withCameras returns o with the images of the named cameras only.
func withCameras(o env.Observation, cameras []string) env.Observation {
	if len(o.Images) == len(cameras) {
		return o
	}
	images := make(map[string]plugins.Tensor, len(cameras))
	for _, c := range cameras {
		images[c] = o.Images[c]
	}
	o.Images = images
	return o
}
