// Package plugins is the contract between the srpo host and its plugins. It contains what the three kinds of
// plugin (env, policy and encoder) share.
//
// The host and the plugins both import it, and neither imports the other. Each kind has a package with its Go
// interface, the gRPC client that the host uses and the gRPC server that the plugin's process runs:
// [github.com/srpo-dev/srpo/plugins/env], .../policy and .../encoder. The wire format is in plugins/proto/srpo/v1.
package plugins

import "context"

// Protocol is the revision of the contract. The go-plugin handshake negotiates it as the application protocol
// version.
const Protocol = 1

// Kind is the kind of a plugin.
type Kind string

// The three kinds.
const (
	Env     Kind = "env"
	Policy  Kind = "policy"
	Encoder Kind = "encoder"
)

// Kinds lists every kind in display order.
var Kinds = []Kind{Env, Policy, Encoder}

// Plugin is implemented by plugins of every kind.
type Plugin interface {
	// Info returns the name and the settings of the plugin. It is called before Configure and must be cheap.
	Info(ctx context.Context) (Info, error)
	// Configure is called once, before any method of the kind.
	Configure(ctx context.Context, c Config) error
}

// Info describes a plugin.
type Info struct {
	Name    string
	Kind    Kind
	Version string
	// Protocol is the revision of the contract that the plugin was built against. Servers fill it in.
	Protocol int
	// Doc is one sentence for `srpo plugin list`.
	Doc      string
	Settings []Setting
	// MaxLanes is the largest number of lanes of one env process. 0 means 1.
	MaxLanes int
	// Distributed reports whether several processes of a policy can work together as the ranks of one world.
	Distributed bool
	// Versions maps libraries to versions, for the run's manifest.
	Versions map[string]string
}

// Config is what the host passes to a plugin before work begins.
type Config struct {
	Settings Settings
	// Seed is for everything that no call seeds, such as initial weights.
	Seed uint64
	// Rank and WorldSize are the place of this process among the processes of one policy. WorldSize is at least 1.
	Rank, WorldSize int
	// Rendezvous is a private, empty folder in which the ranks meet. Its path leaves room for the name of a Unix
	// socket. It is "" if WorldSize is 1.
	Rendezvous string
	// Lanes is the number of lanes of this process (envs).
	Lanes int
	// Env describes the env in which the policy will act (policies).
	Env *EnvSpec
	// Cameras lists the cameras and sizes that the host will request (envs).
	Cameras []CameraRequest
	// Scratch is a folder for temporary files. The host removes it after the plugin ends.
	Scratch string
}

// EnvSpec describes an environment to a policy and to the host.
type EnvSpec struct {
	Cameras []Camera
	Action  ActionSpace
	// Proprio has one name, with its unit, per entry of the proprio vector. It is empty if the env has no proprio.
	Proprio []string
	// Expert reports whether at least one task has a scripted expert.
	Expert bool
	// ExpertFailures lists the ways in which the expert can fail on purpose, which `srpo record` uses to test
	// rewards.
	ExpertFailures []string
	// RecordCamera is the third-person camera whose frames the encoder receives.
	RecordCamera string
}

// Camera is a view that an env can render, uint8 [Height, Width, 3].
type Camera struct {
	Name          string
	Height, Width int
	// View is "third_person" or "wrist".
	View string
	// AnySize reports whether the host can request another size.
	AnySize bool
}

// CameraRequest requests a camera at a size. A size of 0 x 0 means the camera's default size.
type CameraRequest struct {
	Name          string
	Height, Width int
}
