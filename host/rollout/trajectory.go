package rollout

import (
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// trajectory collects what was seen before every action and what was done: an episode as a demonstration has it.
type trajectory struct {
	cameras []string
	demo    policy.Demonstration
}

func newTrajectory(id string, cameras []string) *trajectory {
	return &trajectory{cameras: cameras, demo: policy.Demonstration{ID: id, Images: map[string]plugins.Tensor{}}}
}

// see adds what is seen before the next action. It copies: images alias shared memory until the lane's next call.
func (t *trajectory) see(o env.Observation) {
	if t == nil {
		return
	}
	t.demo.Instruction = o.Instruction
	appendObservation(&t.demo, o, t.cameras)
}

// do adds an executed action, float32 [dim] or [1, dim].
func (t *trajectory) do(action plugins.Tensor) {
	if t == nil {
		return
	}
	dim := action.Shape[len(action.Shape)-1]
	t.demo.Actions = appendRow(t.demo.Actions, plugins.Tensor{DType: action.DType, Shape: []int{dim}, Data: action.Data})
}

// end drops what was seen before an action that never came, an expert's that gave up.
func (t *trajectory) end(success bool) *policy.Demonstration {
	if t == nil {
		return nil
	}
	d := &t.demo
	if d.Actions.IsZero() {
		return nil
	}
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

func firstRows(t plugins.Tensor, n int) plugins.Tensor {
	size := len(t.Data) / t.Shape[0]
	t.Shape = append([]int{n}, t.Shape[1:]...)
	t.Data = t.Data[:n*size]
	return t
}

// bytes that an episode's recorded frames and trajectory take.
func (e *Episode) bytes() int {
	n := len(e.Frames.Data)
	if e.Trajectory != nil {
		for _, img := range e.Trajectory.Images {
			n += len(img.Data)
		}
		n += len(e.Trajectory.Proprio.Data) + len(e.Trajectory.Actions.Data)
	}
	return n
}

// visible is an observation with the images of some cameras only.
func visible(o env.Observation, cameras []string) env.Observation {
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
