// Package tiny is a policy of about 100,000 parameters that learns on a CPU. It reads an image, proprio,
// the instruction and the episode's step, and emits a chunk of actions.
//
// Network: the image is averaged to 64x64 and goes through convolutions. The last convolution feeds a
// spatial softmax and a linear layer. Their outputs, the proprio vector, a hashed bag of the
// instruction's words and radial bases of the episode's step go through two hidden layers to the head.
// The head is a Gaussian with a fixed standard deviation, or discrete tokens as in OpenVLA (setting
// head).
//
// The measurements behind the defaults are in docs/results/tiny-settings.md.
//
// All randomness comes from the seed of a call or of the configuration. No random generator keeps state
// between calls. Sums are computed in an order that does not depend on the number of cores, so the same
// calls give the same bits on the same kind of machine.
package tiny

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Version of the plugin.
const Version = "0.1.0"

// Policy is the tiny policy. Make one with [New]. Its methods are safe for concurrent use; they run one
// at a time.
type Policy struct {
	mu       sync.Mutex
	settings plugins.Settings
	env      plugins.EnvSpec
	camera   string
	net      *net
	head     head
	state    state
	records  map[string][]*record // by trajectory, sorted by step
	recorded int                  // bytes in records
	passes   []*pass              // one per worker
}

var (
	_ policy.Policy      = (*Policy)(nil)
	_ policy.Imitator    = (*Policy)(nil)
	_ policy.RunBeginner = (*Policy)(nil)
)

// New returns a policy that must be configured before use.
func New() *Policy { return &Policy{} }

// state is the content of a checkpoint.
type state struct {
	weights   []float32
	reference []float32 // weights of the starting policy; nil before training starts
	adam      adam
	mean      []float32 // of proprio, from demonstrations
	scale     []float32 // of proprio, from demonstrations
	units     []float32 // [action dim]: size of the policy's action unit, as a fraction of half the action range
	horizon   float64   // env steps at which the clock ends
	updates   []applied
	imitated  []uint64 // ids of applied imitations
}

// applied is an update that was applied, with the statistics that were returned for it.
type applied struct {
	ID         uint64            `json:"id"`
	Statistics policy.Statistics `json:"statistics"`
}

// settings declares what srpo.toml may set.
func settings() []plugins.Setting {
	return slices.Concat(headSettings(), networkSettings(), updateSettings(), imitationSettings(), []plugins.Setting{
		{Name: "record_mb", Default: int64(1024), Min: plugins.Bound(1),
			Doc: "maximum memory for recorded chunks, in MiB; acting with recording fails beyond it"},
	})
}

// headSettings declares the settings of the action distribution.
func headSettings() []plugins.Setting {
	at := plugins.Bound
	return []plugins.Setting{
		{Name: "head", Default: "gaussian", Choices: []string{"gaussian", "tokens"},
			Doc: "action distribution: gaussian with a fixed standard deviation, or tokens (a softmax over equal " +
				"bins of the range of each action dimension, as in OpenVLA-OFT)"},
		{Name: "noise", Default: "chunk", Choices: []string{"chunk", "step"},
			Doc: "gaussian head: draw noise once per chunk (which shifts the whole chunk) or independently for " +
				"each step"},
		{Name: "std", Default: 0.0, Min: at(0), Max: at(2),
			Doc: "standard deviation of the gaussian head at temperature 1, in units of half the action range (see " +
				"idle_range); 0: 0.05 with noise = 'step'; with 'chunk' 0.018, or 0.035 for 6 or more action " +
				"dimensions"},
		{Name: "idle_range", Default: 1.0, Min: at(0.001), Max: at(1),
			Doc: "action unit, as a fraction of half the range, of dimensions that no demonstration moves by more " +
				"than a quarter of their range; values below 1 reduce exploration in these dimensions"},
		{
			Name:    "bins",
			Default: int64(33),
			Min:     at(2),
			Max:     at(256),
			Doc:     "bins per action dimension of the tokens head",
		},
		{Name: "chunk", Default: int64(8), Min: at(1), Max: at(64), Doc: "actions per chunk (8 as in OpenVLA-OFT)"},
	}
}

// networkSettings declares the settings of the network's inputs and sizes.
func networkSettings() []plugins.Setting {
	at := plugins.Bound
	return []plugins.Setting{
		{Name: "image", Default: true,
			Doc: "false: replace the image with zeros, a control that shows whether the policy needs to see"},
		{Name: "camera", Default: "", Doc: "camera to use; empty: the env's recording camera"},
		{Name: "camera_size", Default: int64(0), Min: at(0), Max: at(4096),
			Doc: "height and width to request from the env's camera, in pixels; 0: the camera's default. Images " +
				"are averaged to 64x64 in any case"},
		{Name: "conv", Default: []string{"8,4,4", "16,3,2", "16,3,1"},
			Doc: "convolutions over the 64x64 image, each \"channels,kernel,stride\""},
		{Name: "vision", Default: int64(32), Min: at(1), Max: at(1024),
			Doc: "width of the linear layer after the last convolution"},
		{Name: "hidden", Default: int64(128), Min: at(1), Max: at(4096), Doc: "width of the two hidden layers"},
		{Name: "clock_bases", Default: int64(20), Min: at(0), Max: at(256),
			Doc: "radial bases that encode the episode's step; 0: the policy does not see the step"},
		{Name: "clock_horizon", Default: int64(0), Min: at(0),
			Doc: "env steps at which the clock ends; 0: 1.25 times the longest demonstration (200 without one)"},
	}
}

// updateSettings declares the settings of PPO updates.
func updateSettings() []plugins.Setting {
	at := plugins.Bound
	return []plugins.Setting{
		{Name: "lr", Default: 0.0, Min: at(0), Max: at(1),
			Doc: "Adam's learning rate in updates; 0: 3e-4, or 4e-4 for 6 or more action dimensions"},
		{Name: "lr_chunks", Default: int64(256), Min: at(1),
			Doc: "chunks per update at which lr applies in full; an update with n < lr_chunks uses " +
				"lr*sqrt(n/lr_chunks). 1: always lr"},
		{Name: "adam_beta1", Default: 0.9, Min: at(0), Max: at(0.9999), Doc: "Adam's decay of the gradient's mean"},
		{
			Name:    "adam_beta2",
			Default: 0.999,
			Min:     at(0),
			Max:     at(0.99999),
			Doc:     "Adam's decay of the gradient's square",
		},
		{Name: "grad_clip", Default: 1.0, Min: at(0), Doc: "maximum norm of the gradient; 0: no limit"},
		{Name: "ratio", Default: "token", Choices: []string{"chunk", "position", "token"},
			Doc: "unit of PPO's probability ratio: the executed part of a chunk, one chunk position, or one action " +
				"dimension of a position (token, as in OpenVLA-OFT)"},
		{Name: "mini_batch", Default: int64(1024), Min: at(1),
			Doc: "chunks per mini-batch when the update does not specify it; the default usually covers a whole " +
				"iteration"},
	}
}

// imitationSettings declares the settings of imitation and its augmentation.
func imitationSettings() []plugins.Setting {
	at := plugins.Bound
	return []plugins.Setting{
		{Name: "imitate_lr", Default: 3e-3, Min: at(0), Max: at(1),
			Doc: "Adam's initial learning rate in imitation; it falls to 0 along a cosine"},
		{Name: "imitate_steps", Default: int64(0), Min: at(0),
			Doc: "gradient steps of imitation when the call does not specify them; 0: 800, or 100 for 6 or more " +
				"action dimensions"},
		{Name: "imitate_batch", Default: int64(16), Min: at(1), Max: at(4096), Doc: "frames per imitation step"},
		{Name: "imitate_copies", Default: int64(8), Min: at(1), Max: at(maxRows),
			Doc: "differently augmented samples per frame; they share the image features and therefore cost little"},
		{Name: "shift", Default: 0.015, Min: at(0), Max: at(1),
			Doc: "standard deviation in metres by which imitation shifts the recorded gripper position, with " +
				"corrected labels; 0: no shift"},
		{Name: "shift_steps", Default: int64(6), Min: at(1), Max: at(64),
			Doc: "env steps over which the corrected labels undo the shift"},
		{Name: "shift_proprio", Default: []string{"eef_x|gripper_x", "eef_y|gripper_y", "eef_z|gripper_z"},
			Doc: "proprio entries that contain the gripper position in metres, by name without unit (| separates " +
				"alternatives); entries that the env lacks are skipped together with their shift_actions"},
		{Name: "shift_actions", Default: []string{"dx", "dy", "dz"},
			Doc: "action dimensions that move the shift_proprio entries"},
		{Name: "delta_scale", Default: 0.0, Min: at(0),
			Doc: "metres that the gripper moves per step for 1 unit of shift_actions; 0: estimated from the " +
				"demonstrations by least squares over shift_steps, which measures what the controller reaches " +
				"(LIBERO's OSC_POSE commands 0.05)"},
		{Name: "proprio_noise", Default: 1.0, Min: at(0),
			Doc: "standard deviation of the noise that imitation adds to the other proprio entries, in units of " +
				"their spread in the demonstrations"},
		{Name: "image_shift", Default: int64(2), Min: at(0), Max: at(side / 2),
			Doc: "maximum shift of the image in imitation, in pixels of the 64x64 image, in each direction"},
		{Name: "brightness", Default: 0.1, Min: at(0), Max: at(0.9),
			Doc: "maximum relative change of the image's brightness in imitation"},
		{Name: "clock_jitter", Default: 0.0, Min: at(0),
			Doc: "standard deviation in env steps by which imitation shifts the clock"},
	}
}

// learningRate returns Adam's learning rate in updates for dims action dimensions, before the scaling by
// lr_chunks.
func learningRate(s plugins.Settings, dims int) float64 {
	switch lr := s.Float("lr"); {
	case lr > 0:
		return lr
	case dims >= fullPose:
		return updateRateFullPose
	}
	return updateRate
}

// standardDeviation returns the standard deviation of the gaussian head for dims action dimensions.
func standardDeviation(s plugins.Settings, dims int) float64 {
	switch std := s.Float("std"); {
	case std > 0:
		return std
	case s.String("noise") == "step":
		return stepStd
	case dims >= fullPose:
		return chunkStdFullPose
	}
	return chunkStd
}

// Info implements [plugins.Plugin].
func (p *Policy) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "tiny", Kind: plugins.Policy, Version: Version, Protocol: plugins.Protocol,
		Doc: "a small image, proprio and instruction policy that learns on a CPU", Settings: settings()}, nil
}

// Configure builds the network for the actions and proprio of c.Env and draws its initial weights from
// c.Seed. It returns an Invalid error without an env or for bad settings, and Unsupported for a world
// size above 1.
func (p *Policy) Configure(_ context.Context, c plugins.Config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := plugins.Resolve(settings(), c.Settings)
	if err != nil {
		return plugins.AsError(err).WithPlace("policy tiny")
	}
	if c.Env == nil {
		return plugins.Errorf(plugins.Invalid, "no env was given").WithPlace("policy tiny").
			WithHint("pass the env's description to Configure: its actions and proprio fix the network's sizes")
	}
	if err := c.Env.Action.Check(); err != nil {
		return plugins.AsError(err).WithPlace("policy tiny")
	}
	if c.WorldSize > 1 {
		return plugins.Errorf(plugins.Unsupported, "world size %d", c.WorldSize).WithPlace("policy tiny").
			WithHint("use a world size of 1: this policy runs in one process")
	}
	sh := shape{Vision: s.Int("vision"), Hidden: s.Int("hidden"), Proprio: len(c.Env.Proprio), Words: wordBuckets,
		Bases: s.Int("clock_bases"), Chunk: s.Int("chunk"), Actions: c.Env.Action.Dim(), Head: s.String("head")}
	if sh.Conv, err = convolutions(s.Strings("conv")); err != nil {
		return err
	}
	independent := gaussian{sh.Chunk, sh.Actions, standardDeviation(s, sh.Actions)}
	switch {
	case sh.Head == "tokens":
		sh.Bins = s.Int("bins")
		p.head = tokens{sh.Chunk, sh.Actions, sh.Bins}
	case s.String("noise") == "chunk":
		p.head = chunkGaussian{independent}
	default:
		p.head = independent
	}
	p.settings, p.env, p.passes = s, *c.Env, nil
	if p.camera = s.String("camera"); p.camera == "" {
		p.camera = c.Env.RecordCamera
	}
	p.net = newNet(sh, p.head.outputs())
	p.state = state{weights: p.net.initial(c.Seed), adam: newAdam(p.net.size), mean: make([]float32, sh.Proprio),
		scale: ones(sh.Proprio), units: ones(sh.Actions), horizon: 200}
	if h := s.Int("clock_horizon"); h > 0 {
		p.state.horizon = float64(h)
	}
	p.dropAllRecords()
	return nil
}

// convolutions parses the setting conv into channels, kernel and stride of each layer.
func convolutions(list []string) ([][3]int, error) {
	bad := func(format string, args ...any) error {
		return plugins.Errorf(plugins.Invalid, format, args...).WithPlace("policy tiny, setting conv").
			WithHint(`write each convolution as "channels,kernel,stride", for example "16,3,2"`)
	}
	if len(list) == 0 {
		return nil, bad("no convolution")
	}
	limits := [3]int{512, side, side}
	var out [][3]int
	for _, s := range list {
		parts := strings.Split(s, ",")
		if len(parts) != 3 {
			return nil, bad("%q has %d numbers", s, len(parts))
		}
		var l [3]int
		for i, f := range parts {
			v, err := strconv.Atoi(strings.TrimSpace(f))
			if err != nil || v < 1 || v > limits[i] {
				return nil, bad("%q: %q is not a whole number from 1 to %d", s, f, limits[i])
			}
			l[i] = v
		}
		out = append(out, l)
	}
	return out, nil
}

// ready returns an Invalid error if the policy has not been configured.
func (p *Policy) ready() error {
	if p.net == nil {
		return plugins.Errorf(plugins.Invalid, "not configured").
			WithPlace("policy tiny").
			WithHint("call Configure first")
	}
	return nil
}

// Describe returns the policy's inputs and outputs. With image = false it requests no camera.
func (p *Policy) Describe(context.Context) (policy.Spec, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ready(); err != nil {
		return policy.Spec{}, err
	}
	s := policy.Spec{
		Proprio:     p.net.Proprio > 0,
		Chunk:       p.net.Chunk,
		Trainable:   true,
		CanImitate:  true,
		WeighsSteps: true,
		Parameters:  p.net.size,
	}
	if p.settings.Bool("image") {
		size := p.settings.Int("camera_size")
		s.Cameras = []plugins.CameraRequest{{Name: p.settings.String("camera"), Height: size, Width: size}}
	}
	return s, nil
}

// actions converts a sample [chunk, action dim] to actions in the env's units, clipped to the env's range.
func (p *Policy) actions(sample []float32) []float32 {
	a := p.env.Action
	out := make([]float32, len(sample))
	for i, v := range sample {
		low, high := a.Low[i%a.Dim()], a.High[i%a.Dim()]
		u := min(max(p.head.value(v)*p.state.units[i%a.Dim()], -1), 1)
		out[i] = min(max(low+(u+1)/2*(high-low), low), high)
	}
	return out
}

// inputs writes the network's vector inputs to x: normalised proprio, words, clock.
func (p *Policy) inputs(x, proprio []float32, words []float32, step float64) {
	for i, v := range proprio {
		x[i] = min(max((v-p.state.mean[i])/p.state.scale[i], -5), 5)
	}
	copy(x[len(proprio):], words)
	clockBases(step, p.state.horizon, x[len(proprio)+len(words):])
}

// image returns the configured camera's tensor from images: uint8 [h, w, 3] for dims 3, [n, h, w, 3] for
// dims 4.
func (p *Policy) image(images map[string]plugins.Tensor, dims int) (plugins.Tensor, error) {
	t, ok := images[p.camera]
	if !ok && p.camera == "" && len(images) == 1 {
		for _, t = range images {
			ok = true
		}
	}
	if !ok {
		names := make([]string, 0, len(images))
		for n := range images {
			names = append(names, n)
		}
		return t, plugins.Errorf(plugins.Invalid, "no image from camera %q, only from %q", p.camera, names).
			WithHint("set policy.tiny.camera to one of the env's cameras")
	}
	want := []int{-1, -1, -1, 3}[4-dims:]
	if err := t.Check(fmt.Sprintf("image of camera %q", p.camera), plugins.Uint8, want...); err != nil {
		return t, err
	}
	if h, w := t.Shape[dims-3], t.Shape[dims-2]; h < 1 || w < 1 {
		return t, plugins.Errorf(plugins.Invalid, "image of camera %q is %d x %d", p.camera, h, w)
	}
	return t, nil
}

// ones returns n ones.
func ones(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = 1
	}
	return v
}

// finite reports whether all elements of v are finite.
func finite(v []float32) bool {
	for _, x := range v {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return false
		}
	}
	return true
}
