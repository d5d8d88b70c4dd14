package plugins_test

import (
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
)

// An error states what failed, where, and what to do.
func ExampleErrorf() {
	err := plugins.Errorf(plugins.NotFound, "no camera %q", "wirst").
		WithPlace("env libero").
		WithHint("did you mean %q?", "wrist")
	fmt.Println(err)
	fmt.Println(plugins.KindOf(err) == plugins.NotFound, "-", plugins.AsError(err).Hint)
	// Output:
	// env libero: no camera "wirst"
	// true - did you mean "wrist"?
}

// Each side adds its place. A place that the inner side has already added is not repeated.
func ExampleError_WithPlace() {
	inside := plugins.Errorf(plugins.Mismatch, "another network").WithPlace("policy tiny, tiny.policy")
	fmt.Println(inside.WithPlace("policy tiny").WithPlace("--checkpoint"))
	fmt.Println(inside.WithPlace("policy"))
	// Output:
	// --checkpoint, policy tiny, tiny.policy: another network
	// policy, policy tiny, tiny.policy: another network
}

// A plugin declares its settings, and the host checks the values that the user gives.
func ExampleResolve() {
	declared := []plugins.Setting{
		{Name: "lr", Default: 3e-4, Min: plugins.Bound(0), Max: plugins.Bound(1), Doc: "learning rate"},
	}
	settings, err := plugins.Resolve(declared, map[string]any{"lr": 0.001})
	fmt.Println(settings["lr"], err)
	_, err = plugins.Resolve(declared, map[string]any{"lr": 7.0})
	fmt.Println(err)
	// Output:
	// 0.001 <nil>
	// setting "lr" cannot be 7
}

// A chunk of two actions with three dimensions is float32 [2, 3].
func ExampleFloats() {
	chunk := plugins.Floats([]float32{0.1, 0, 1, 0.2, 0, 1}, 2, 3)
	fmt.Println(chunk.Shape, len(chunk.Data), "bytes")
	space := plugins.ActionSpace{
		Names: []string{"dx", "dy", "gripper"},
		Low:   []float32{-1, -1, -1},
		High:  []float32{1, 1, 1},
	}
	values, err := space.Clip(chunk)
	fmt.Println(values[3], err)
	// Output:
	// [2 3] 24 bytes
	// 0.2 <nil>
}
