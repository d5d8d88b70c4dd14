//go:build !cgo

package model

import (
	"context"

	"github.com/srpo-dev/srpo/plugins"
)

// Session stands for a loaded network in a build without cgo. ONNX Runtime is a C library, so it cannot
// load a network.
type Session struct{}

func unsupported() error {
	return plugins.Errorf(plugins.Unsupported, "this srpo was built without cgo, which ONNX Runtime needs").
		WithHint("use the encoder pixel, or build srpo with a C compiler: CGO_ENABLED=1 go build ./cmd/srpo")
}

// Open returns an error of kind Unsupported.
func Open(Options) (*Session, error) { return nil, unsupported() }

// Load returns an error of kind Unsupported.
func Load(string) error { return unsupported() }

// Version returns the version in the file name of the plugin's own library, or "" if it is unknown.
func Version() string { return ownVersion() }

// Card returns an empty card.
func (s *Session) Card() Card { return Card{} }

// Output returns "".
func (s *Session) Output() string { return "" }

// Provider returns "".
func (s *Session) Provider() string { return "" }

// Run returns an error of kind Unsupported.
func (s *Session) Run(context.Context, []float32, int) ([]float32, error) { return nil, unsupported() }

// Busy returns false.
func (s *Session) Busy() bool { return false }

// Close does nothing.
func (s *Session) Close() {}
