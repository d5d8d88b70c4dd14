// Package plugins is the contract between the srpo host and its plugins: what the three kinds (env, policy, encoder) share.
//
// Both sides import it, neither imports the other. Each kind has a package of its own, with the Go interface, the gRPC client that the host holds
// and the gRPC server that a plugin's process runs, side by side: [github.com/srpo-dev/srpo/plugins/env], .../policy and .../encoder. The wire form is
// plugins/proto/srpo/v1.
package plugins

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// Protocol is the revision of the contract, negotiated in the go-plugin handshake as the application protocol version.
const Protocol = 1

// Kind is what a plugin is.
type Kind string

// The three kinds.
const (
	Env     Kind = "env"
	Policy  Kind = "policy"
	Encoder Kind = "encoder"
)

// Kinds lists every kind, in the order in which they are shown.
var Kinds = []Kind{Env, Policy, Encoder}

// Plugin is what every plugin offers, whatever its kind.
type Plugin interface {
	// Info names the plugin and lists its settings. It answers before Configure and does nothing heavy.
	Info(ctx context.Context) (Info, error)
	// Configure is called once, before any method of the kind.
	Configure(ctx context.Context, c Config) error
}

// Info is who a plugin says it is.
type Info struct {
	Name    string
	Kind    Kind
	Version string
	// Protocol is the revision of the contract that the plugin was built against; servers fill it in.
	Protocol int
	// Doc is one sentence for `srpo plugin list`.
	Doc      string
	Settings []Setting
	// MaxLanes is the number of lanes that one process can hold (envs); 0 means 1.
	MaxLanes int
	// Distributed says that several processes can serve the role together, as the ranks of one world (policies).
	Distributed bool
	// Versions are library versions worth a line in a run's manifest.
	Versions map[string]string
}

// Setting is one value that srpo.toml or --set may give to a plugin. The type of Default (bool, int64, float64, string or []string) is its type.
type Setting struct {
	Name    string
	Default any
	// Doc says what it means, in which unit, and where the default is from.
	Doc string
	// Choices are the allowed strings; empty: any.
	Choices []string
	// Min and Max bound a number, inclusive; nil: no bound.
	Min, Max *float64
}

// Check returns v as the setting's type (an int64 is accepted for a float64), or an error that says what was expected.
func (s Setting) Check(v any) (any, error) {
	bad := func() (any, error) {
		return nil, Errorf(Invalid, "setting %q wants %s, got %v (%s)", s.Name, typeName(s.Default), v, typeName(v)).
			WithHint("the default is %v; %s", s.Default, s.Doc)
	}
	switch v := v.(type) {
	case int:
		return s.Check(int64(v))
	case float32:
		return s.Check(float64(v))
	}
	var number float64
	switch s.Default.(type) {
	case bool:
		if _, ok := v.(bool); !ok {
			return bad()
		}
		return v, nil
	case string:
		t, ok := v.(string)
		if !ok {
			return bad()
		}
		if len(s.Choices) > 0 && !slices.Contains(s.Choices, t) {
			return nil, Errorf(Invalid, "setting %q cannot be %q", s.Name, t).WithHint("one of %s", strings.Join(s.Choices, ", "))
		}
		return t, nil
	case []string:
		switch t := v.(type) {
		case []string:
			return t, nil
		case []any:
			out := make([]string, 0, len(t))
			for _, e := range t {
				e, ok := e.(string)
				if !ok {
					return bad()
				}
				out = append(out, e)
			}
			return out, nil
		}
		return bad()
	case int64:
		t, ok := v.(int64)
		if !ok {
			return bad()
		}
		number = float64(t)
	case float64:
		switch t := v.(type) {
		case float64:
			number = t
		case int64:
			number = float64(t)
		default:
			return bad()
		}
		if math.IsNaN(number) || math.IsInf(number, 0) {
			return bad()
		}
		v = number
	default:
		return nil, Errorf(Internal, "setting %q has a default of type %T", s.Name, s.Default)
	}
	if s.Min != nil && number < *s.Min || s.Max != nil && number > *s.Max {
		return nil, Errorf(Invalid, "setting %q cannot be %v", s.Name, v).WithHint("allowed: %s", s.bounds())
	}
	return v, nil
}

func (s Setting) bounds() string {
	switch {
	case s.Min != nil && s.Max != nil:
		return fmt.Sprintf("%v to %v", *s.Min, *s.Max)
	case s.Min != nil:
		return fmt.Sprintf("%v or more", *s.Min)
	}
	return fmt.Sprintf("%v or less", *s.Max)
}

// Bound returns a pointer to v, for Setting.Min and Setting.Max.
func Bound(v float64) *float64 { return &v }

func typeName(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case int64, int:
		return "a whole number"
	case float64:
		return "a number"
	case string:
		return "a string"
	case []string, []any:
		return "a list of strings"
	}
	return fmt.Sprintf("%T", v)
}

// Settings are checked values by name; every declared setting is present.
type Settings map[string]any

// Names returns the names, sorted.
func (s Settings) Names() []string {
	names := make([]string, 0, len(s))
	for n := range s {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Bool returns a bool setting; the zero value when it is absent. Int, Float, String and Strings do the same for their types.
func (s Settings) Bool(name string) bool { v, _ := s[name].(bool); return v }

// Int returns a whole-number setting.
func (s Settings) Int(name string) int { v, _ := s[name].(int64); return int(v) }

// Float returns a number setting.
func (s Settings) Float(name string) float64 { v, _ := s[name].(float64); return v }

// String returns a string setting.
func (s Settings) String(name string) string { v, _ := s[name].(string); return v }

// Strings returns a list setting.
func (s Settings) Strings(name string) []string { v, _ := s[name].([]string); return v }

// Resolve checks given values against the declared settings and fills in the defaults. Unknown names are refused.
func Resolve(declared []Setting, given map[string]any) (Settings, error) {
	out := Settings{}
	for _, d := range declared {
		out[d.Name] = d.Default
	}
	for name, v := range given {
		var decl *Setting
		for i := range declared {
			if declared[i].Name == name {
				decl = &declared[i]
			}
		}
		if decl == nil {
			known := make([]string, len(declared))
			for i, d := range declared {
				known[i] = d.Name
			}
			return nil, Errorf(Invalid, "unknown setting %q", name).WithHint("known: %s", strings.Join(known, ", "))
		}
		v, err := decl.Check(v)
		if err != nil {
			return nil, err
		}
		out[name] = v
	}
	return out, nil
}

// Config is what the host tells a plugin before work begins.
type Config struct {
	Settings Settings
	// Seed for anything that no call seeds (initial weights).
	Seed uint64
	// Rank and WorldSize place the process among those that serve the same role together; WorldSize >= 1.
	Rank, WorldSize int
	// Rendezvous is a folder where they meet, private and empty; its path leaves room for the name of a Unix socket. "" when WorldSize is 1.
	Rendezvous string
	// Lanes that the process will hold (envs).
	Lanes int
	// Env that the policy will act in (policies).
	Env *EnvSpec
	// Cameras that will be asked for (envs).
	Cameras []CameraRequest
	// Scratch is a folder that the plugin may write to; the host removes it afterwards.
	Scratch string
}

// EnvSpec is what a policy and a host must know of an environment.
type EnvSpec struct {
	Cameras []Camera
	Action  ActionSpace
	// Proprio names the proprio vector's entries, with units; empty: none.
	Proprio []string
	// Expert says whether there is a scripted expert for (some of) the tasks.
	Expert bool
	// ExpertFailures are ways in which the expert can fail on purpose, for measuring rewards; empty: none.
	ExpertFailures []string
	// RecordCamera is the third-person camera that the encoder should see.
	RecordCamera string
}

// Camera is a view that an env can render, uint8 [Height, Width, 3].
type Camera struct {
	Name          string
	Height, Width int
	// View is "third_person" or "wrist".
	View string
	// AnySize says whether other sizes can be asked for.
	AnySize bool
}

// CameraRequest asks for a camera at a size; 0 x 0: the camera's own.
type CameraRequest struct {
	Name          string
	Height, Width int
}

// ActionSpace says what an action's numbers are.
type ActionSpace struct {
	// Names, Low and High have one entry a dimension.
	Names     []string
	Low, High []float32
	// Meaning in words, the same on both sides, e.g. "OSC_POSE end-effector delta, gripper -1 open +1 close".
	Meaning string
	RateHz  float64
}

// Dim is the number of dimensions.
func (a ActionSpace) Dim() int { return len(a.Names) }

// Fits says in words why a policy that emits p cannot drive an env that takes a, or returns nil. A space without names takes the other's.
func (a ActionSpace) Fits(p ActionSpace) error {
	if len(p.Names) == 0 {
		return nil
	}
	if a.Dim() != p.Dim() {
		return Errorf(Mismatch, "the env takes %d action dimensions %v, the policy emits %d %v", a.Dim(), a.Names, p.Dim(), p.Names).
			WithHint("use a policy that was trained for this env")
	}
	for i := range a.Names {
		if a.Names[i] != p.Names[i] || a.Low[i] != p.Low[i] || a.High[i] != p.High[i] {
			return Errorf(Mismatch, "action dimension %d: the env takes %s in [%g, %g], the policy emits %s in [%g, %g]", i,
				a.Names[i], a.Low[i], a.High[i], p.Names[i], p.Low[i], p.High[i]).WithHint("use a policy that was trained for this env")
		}
	}
	if a.Meaning != p.Meaning && a.Meaning != "" && p.Meaning != "" {
		return Errorf(Mismatch, "the env's actions mean %q, the policy's %q", a.Meaning, p.Meaning).WithHint("use a policy that was trained for this env")
	}
	return nil
}

// Check reports an action space that no policy could use.
func (a ActionSpace) Check() error {
	if a.Dim() == 0 || len(a.Low) != a.Dim() || len(a.High) != a.Dim() {
		return Errorf(Corrupt, "action space has %d names, %d lows and %d highs", len(a.Names), len(a.Low), len(a.High)).
			WithHint("Describe must give one name, low and high a dimension")
	}
	for i := range a.Names {
		if !(a.Low[i] < a.High[i]) {
			return Errorf(Corrupt, "action dimension %q has low %g, high %g", a.Names[i], a.Low[i], a.High[i]).WithHint("low must be below high, and both finite")
		}
	}
	return nil
}

// Clip returns the numbers of a chunk of actions, float32 [n, Dim], clipped to their range, or says which of them no env may execute: a wrong size, NaN,
// infinity, or a value outside its range by more than 1e-6 (rounding of a policy's un-normalisation).
func (a ActionSpace) Clip(t Tensor) ([]float32, error) {
	if t.DType != Float32 || len(t.Shape) != 2 || t.Shape[1] != a.Dim() || t.Shape[0] < 1 {
		return nil, Errorf(Invalid, "actions are %v %v, want float32 [n, %d] with n >= 1", t.DType, t.Shape, a.Dim()).WithHint("the dimensions are %v", a.Names)
	}
	v := t.Float32s()
	if len(v) != t.Shape[0]*a.Dim() {
		return nil, Errorf(Invalid, "actions of shape %v have %d numbers", t.Shape, len(v))
	}
	for i, x := range v {
		d := i % a.Dim()
		if math.IsNaN(float64(x)) || x < a.Low[d]-1e-6 || x > a.High[d]+1e-6 {
			return nil, Errorf(Invalid, "action %d: %q is %v, its range is [%g, %g]", i/a.Dim(), a.Names[d], x, a.Low[d], a.High[d]).
				WithHint("clip the policy's actions to the env's range")
		}
		v[i] = min(max(x, a.Low[d]), a.High[d])
	}
	return v, nil
}
