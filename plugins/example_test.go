package plugins_test

import (
	"fmt"

	"github.com/srpo-dev/srpo/plugins"
)

// An error tells what, where and what to do, on both sides of the wire.
func ExampleErrorf() {
	err := plugins.Errorf(plugins.NotFound, "no camera %q", "wirst").WithPlace("env libero").WithHint("did you mean %q?", "wrist")
	fmt.Println(err)
	fmt.Println(plugins.KindOf(err) == plugins.NotFound, "-", plugins.AsError(err).Hint)
	// Output:
	// env libero: no camera "wirst"
	// true - did you mean "wrist"?
}

// Each side says where it was; what the inner side has said already is not said twice.
func ExampleError_WithPlace() {
	inside := plugins.Errorf(plugins.Mismatch, "another network").WithPlace("policy tiny, tiny.policy")
	fmt.Println(inside.WithPlace("policy tiny").WithPlace("--checkpoint"))
	fmt.Println(inside.WithPlace("policy"))
	// Output:
	// --checkpoint, policy tiny, tiny.policy: another network
	// policy, policy tiny, tiny.policy: another network
}

// A plugin declares its settings, and the host checks what the user gave.
func ExampleResolve() {
	declared := []plugins.Setting{{Name: "lr", Default: 3e-4, Min: plugins.Bound(0), Max: plugins.Bound(1), Doc: "learning rate"}}
	settings, err := plugins.Resolve(declared, map[string]any{"lr": 0.001})
	fmt.Println(settings["lr"], err)
	_, err = plugins.Resolve(declared, map[string]any{"lr": 7.0})
	fmt.Println(err)
	// Output:
	// 0.001 <nil>
	// setting "lr" cannot be 7
}

// A chunk of two actions of an arm that is moved in x and y and opens or closes its gripper: float32 [2, 3].
func ExampleFloats() {
	chunk := plugins.Floats([]float32{0.1, 0, 1, 0.2, 0, 1}, 2, 3)
	fmt.Println(chunk.Shape, len(chunk.Data), "bytes")
	space := plugins.ActionSpace{Names: []string{"dx", "dy", "gripper"}, Low: []float32{-1, -1, -1}, High: []float32{1, 1, 1}}
	values, err := space.Clip(chunk)
	fmt.Println(values[3], err)
	// Output:
	// [2 3] 24 bytes
	// 0.2 <nil>
}
