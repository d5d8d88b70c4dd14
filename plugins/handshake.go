package plugins

import (
	"github.com/hashicorp/go-plugin"
)

// Handshake is what a host and a plugin must agree on before anything else; the revision of the contract is negotiated beside it as go-plugin's
// application protocol version (see [Protocol]).
var Handshake = plugin.HandshakeConfig{
	ProtocolVersion:  Protocol,
	MagicCookieKey:   "SRPO_PLUGIN",
	MagicCookieValue: "srpo.v1",
}

// What a plugin's process inherits besides stdin, stdout and stderr.
const (
	// LifelineEnv names the variable with the descriptor of the lifeline: the read end of a pipe that the host holds open. At its end of file the
	// plugin kills its own process group.
	LifelineEnv = "SRPO_LIFELINE_FD"
	// LifelineFD is that descriptor.
	LifelineFD = 3
	// ArenaEnv names the variable with the descriptor of the shared-memory arena, where there is one.
	ArenaEnv = "SRPO_ARENA_FD"
	// ArenaFD is that descriptor.
	ArenaFD = 4
	// HeartbeatEnv names the variable that asks for a heartbeat, "FD,MS": a byte into descriptor FD every MS milliseconds, from a thread that no call holds up.
	HeartbeatEnv = "SRPO_HEARTBEAT"
	// WorkingFolderEnv names the variable with the host's working folder, from which users mean relative paths in settings; the plugin's own is its package.
	WorkingFolderEnv = "SRPO_WORKING_FOLDER"
)

// MaxMessage bounds a gRPC message in either direction, bytes. A 300-step demonstration with one 256x256 camera is 59 MB.
const MaxMessage = 256 << 20
