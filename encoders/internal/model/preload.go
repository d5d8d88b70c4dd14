package model

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
*/
import "C"

import (
	"path/filepath"
	"slices"
	"strings"
	"unsafe"
)

// preloadCUDA loads the libraries of CUDA and cuDNN that are installed as Python packages next to ONNX
// Runtime (site-packages/nvidia/*/lib). The dynamic loader does not search there, but it uses a library of
// the required name that is already loaded. preloadCUDA returns the number of loaded libraries and the
// errors of the others. Without such packages it does nothing, and the loader searches the system and
// LD_LIBRARY_PATH.
func preloadCUDA(library string) (loaded int, failures []string) {
	// library is site-packages/onnxruntime/capi/libonnxruntime.so
	site := filepath.Dir(filepath.Dir(filepath.Dir(library)))
	waiting, _ := filepath.Glob(filepath.Join(site, "nvidia", "*", "lib", "*.so*"))
	waiting = slices.DeleteFunc(waiting, func(path string) bool {
		// alt: another build of a library; nvblas: it would replace the BLAS of the process.
		name := filepath.Base(path)
		return strings.Contains(name, "alt") || strings.Contains(name, "nvblas")
	})
	for progress := true; progress; { // the order of their dependencies is unknown
		progress, failures = false, nil
		var left []string
		for _, path := range waiting {
			name := C.CString(path)
			handle := C.dlopen(name, C.RTLD_NOW|C.RTLD_GLOBAL)
			C.free(unsafe.Pointer(name))
			if handle == nil {
				left, failures = append(left, path), append(failures, C.GoString(C.dlerror()))
				continue
			}
			loaded, progress = loaded+1, true
		}
		waiting = left
	}
	return loaded, failures
}
