//go:build tools

package plugins

// Modules that code still to come needs; keeps them in go.mod.
import (
	_ "github.com/BurntSushi/toml"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "github.com/yalue/onnxruntime_go"
	_ "golang.org/x/term"
)
