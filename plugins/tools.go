//go:build tools

package plugins

// The ONNX Runtime encoders, which come next, need it; keeps it in go.mod.
import _ "github.com/yalue/onnxruntime_go"
