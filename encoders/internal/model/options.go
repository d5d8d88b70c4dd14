// Package model runs the networks that `srpo encoder export` and the installation of the encoder generic
// write. It checks model files and their cards, and runs them on ONNX Runtime. The library is opened at run
// time, nothing is linked. A run ends when its context ends.
package model

import (
	"context"

	"github.com/srpo-dev/srpo/plugins"
)

// Options are the options of a session.
type Options struct {
	// Model is the path of an .onnx file. Family must equal the family in its card.
	Model, Family string
	// Output is "mean", "cls" or "patches"; empty: the default of the card.
	Output string
	// Library is the path of libonnxruntime; empty: the plugin's own.
	Library string
	// Provider is "cpu", "cuda" or "auto": CUDA if it works, otherwise the CPU.
	Provider string
	// Threads is the number of threads of one run; 0: one per core.
	Threads int
	// Batch is the number of clips or frames per run; 0: unknown.
	Batch int
	// MemoryMB is the maximum memory of the model and the pictures of a batch, in 10^6 bytes; 0: the free
	// memory. On a GPU it is also the limit of ONNX Runtime's arena.
	MemoryMB int
}

// Stopped returns the error of work whose context ended, of kind Canceled or Deadline.
func Stopped(ctx context.Context) error {
	kind := plugins.Canceled
	if ctx.Err() == context.DeadlineExceeded {
		kind = plugins.Deadline
	}
	return plugins.Errorf(kind, "stopped: %w", ctx.Err())
}
