// Package model runs the networks that `srpo encoder export` and the generic encoder's installation write, on ONNX
// Runtime: a library that is opened when it is needed (nothing is linked), a model file with a card in its metadata,
// and runs that end with their context.
package model

import (
	"context"

	"github.com/srpo-dev/srpo/plugins"
)

// Options of a session.
type Options struct {
	// Model is the path of an .onnx file; Family is what its card must say.
	Model, Family string
	// Output is "mean", "cls" or "patches"; empty: the card's default.
	Output string
	// Library is the path of libonnxruntime; empty: the plugin's own.
	Library string
	// Provider is "cpu", "cuda" or "auto": CUDA where it works, else the CPU.
	Provider string
	// Threads of one run; 0: as many as cores.
	Threads int
	// Batch is the number of clips or frames that a run is going to have; 0: not known.
	Batch int
	// MemoryMB is the most that the model may take with the pictures of a batch, in 10^6 bytes; 0: what is free. On a
	// GPU it is the limit of ONNX Runtime's own arena, too.
	MemoryMB int
}

// Stopped is the error of work whose context ended.
func Stopped(ctx context.Context) error {
	kind := plugins.Canceled
	if ctx.Err() == context.DeadlineExceeded {
		kind = plugins.Deadline
	}
	return plugins.Errorf(kind, "stopped: %w", ctx.Err())
}
