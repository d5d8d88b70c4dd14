package sdk

import (
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// The types of the contract that an env made of [Sim] lanes needs, so that its author imports one package.
type (
	Info          = plugins.Info
	Setting       = plugins.Setting
	Settings      = plugins.Settings
	Config        = plugins.Config
	EnvSpec       = plugins.EnvSpec
	Camera        = plugins.Camera
	CameraRequest = plugins.CameraRequest
	ActionSpace   = plugins.ActionSpace
	Task          = env.Task
	Error         = plugins.Error
	ErrorKind     = plugins.ErrorKind
)

// The kinds of errors that a plugin returns.
const (
	Invalid     = plugins.Invalid
	NotFound    = plugins.NotFound
	Unsupported = plugins.Unsupported
	Mismatch    = plugins.Mismatch
	Exhausted   = plugins.Exhausted
	Corrupt     = plugins.Corrupt
	Internal    = plugins.Internal
	Diverged    = plugins.Diverged
)

// Errorf returns an error of the given kind; see [plugins.Errorf]. Add a remedy for the user with
// [plugins.Error.WithHint].
func Errorf(kind ErrorKind, format string, args ...any) *Error {
	return plugins.Errorf(kind, format, args...)
}

// DeclareSettings returns the settings that the fields of a struct declare; see [plugins.DeclareSettings]. Read
// them in SimSpec.New with [plugins.Settings.Decode].
func DeclareSettings(defaults any) []Setting { return plugins.DeclareSettings(defaults) }
