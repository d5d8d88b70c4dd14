package plugins

import "github.com/hashicorp/go-plugin"

// Handshake is the configuration on which host and plugin must agree first. go-plugin also negotiates the revision
// of the contract, as its application protocol version; see [Protocol].
var Handshake = plugin.HandshakeConfig{
	ProtocolVersion:  Protocol,
	MagicCookieKey:   "SRPO_PLUGIN",
	MagicCookieValue: "srpo.v1",
}

// Variables and descriptors that a plugin's process inherits.
const (
	// LifelineEnv is the variable with the descriptor of the lifeline, the read end of a pipe that the host keeps
	// open. When the pipe reaches its end of file, the plugin kills its process group.
	LifelineEnv = "SRPO_LIFELINE_FD"
	LifelineFD  = 3
	// ArenaEnv is the variable with the descriptor of the shared-memory arena. It is absent if there is no arena.
	ArenaEnv = "SRPO_ARENA_FD"
	ArenaFD  = 4
	// HeartbeatEnv is the variable that requests a heartbeat. Its value is "FD,MS": write a byte to descriptor FD
	// every MS milliseconds, from a thread that no call blocks.
	HeartbeatEnv = "SRPO_HEARTBEAT"
	// WorkingFolderEnv is the variable with the host's working folder. Relative paths in settings start there. The
	// plugin's working folder is its package.
	WorkingFolderEnv = "SRPO_WORKING_FOLDER"
)

// MaxMessage is the largest size of a gRPC message in bytes. A demonstration of 300 steps with one 256 x 256
// camera has 59 MB.
const MaxMessage = 256 << 20
