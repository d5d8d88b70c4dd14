package tiny

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// side is the height and width that every image is averaged to.
const side = 64

// shape fixes the number and meaning of the parameters. It is part of a checkpoint.
type shape struct {
	Conv    [][3]int `json:"conv"` // channels, kernel, stride
	Vision  int      `json:"vision"`
	Hidden  int      `json:"hidden"`
	Proprio int      `json:"proprio"`
	Words   int      `json:"words"`
	Bases   int      `json:"bases"`
	Chunk   int      `json:"chunk"`
	Actions int      `json:"actions"`
	Head    string   `json:"head"`
	Bins    int      `json:"bins"` // 0 for the Gaussian head
}

// vectorInputs is the number of inputs besides the image.
func (s shape) vectorInputs() int { return s.Proprio + s.Words + s.Bases }

// net is the network. Convolutions with ReLU process the image. Their last layer feeds the spatial
// softmax and a linear layer with ReLU. These visual features and the vector inputs (proprio, words and
// clock) go through two hidden layers with ReLU to the head's outputs. The vector inputs also reach the
// outputs through a linear layer (skip), because steering back by an amount proportional to the distance
// from the path is a linear function.
type net struct {
	shape
	convs   []conv
	flatten linear
	hidden  [2]linear
	output  linear
	skip    int // parameter index of W [outputs, vectorInputs]; the bias is that of output
	outputs int
	size    int // parameters
	names   []section
}

// section is a named part of the parameter vector.
type section struct {
	Name  string `json:"name"`
	Shape []int  `json:"shape"`
}

// newNet lays out the parameters of a network with the given number of outputs.
func newNet(s shape, outputs int) *net {
	n := &net{shape: s, outputs: outputs}
	take := func(name string, dims ...int) int {
		at, size := n.size, 1
		for _, d := range dims {
			size *= d
		}
		n.size += size
		n.names = append(n.names, section{name, dims})
		return at
	}
	dense := func(name string, in, out int) linear {
		return linear{in: in, out: out, w: take(name+".weight", out, in), b: take(name+".bias", out)}
	}
	h, w, c := side, side, 3
	for i, l := range s.Conv {
		v := conv{h: h, w: w, in: c, out: l[0], kernel: l[1], stride: l[2]}
		v.weight = take(fmt.Sprintf("conv%d.weight", i), v.out, v.kernel, v.kernel, v.in)
		v.bias = take(fmt.Sprintf("conv%d.bias", i), v.out)
		n.convs = append(n.convs, v)
		h, w, c = v.outH(), v.outW(), v.out
	}
	n.flatten = dense("vision", h*w*c, s.Vision)
	n.hidden[0] = dense("hidden0", n.visualFeatures()+s.vectorInputs(), s.Hidden)
	n.hidden[1] = dense("hidden1", s.Hidden, s.Hidden)
	n.output = dense("output", s.Hidden, outputs)
	n.skip = take("skip.weight", outputs, s.vectorInputs())
	return n
}

// lastSize returns the height, width and channels of the last convolution's output.
func (n *net) lastSize() (h, w, c int) {
	v := n.convs[len(n.convs)-1]
	return v.outH(), v.outW(), v.out
}

// visualFeatures is the number of values that the network computes from an image.
func (n *net) visualFeatures() int {
	_, _, c := n.lastSize()
	return 2*c + n.Vision
}

// initial draws the starting weights: He normal before a ReLU, a hundredth of that at the output, and 0
// in skip, so that the actions of the untrained policy are near the middle of their range.
func (n *net) initial(seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 0x74696e79))
	p := make([]float32, n.size)
	fill := func(at, count, fan int, gain float64) {
		std := gain * math.Sqrt(2/float64(fan))
		for i := range count {
			p[at+i] = float32(r.NormFloat64() * std)
		}
	}
	for _, c := range n.convs {
		fill(c.weight, c.out*c.fan(), c.fan(), 1)
	}
	for _, l := range []linear{n.flatten, n.hidden[0], n.hidden[1]} {
		fill(l.w, l.out*l.in, l.in, 1)
	}
	fill(n.output.w, n.output.out*n.output.in, n.output.in, 0.01)
	return p
}

// pass is the memory for one forward and backward pass of up to maxRows samples. Several samples may
// share an image (frame), which is then convolved once; there are at most as many frames as samples.
type pass struct {
	net     *net
	frames  int
	samples int
	frame   []int     // frame of each sample
	image   []float32 // [frames, side, side, 3], in -1 to 1
	acts    [][]float32
	prob    []float32 // [frames, h, w, c] of the last convolution
	visual  []float32 // [frames, seen]
	flat    []float32 // [frames, Vision]
	in      []float32 // [samples, visualFeatures+vectorInputs]
	h0, h1  []float32
	out     []float32 // [samples, outputs]

	dout, dh1, dh0, din   []float32
	dvisual, dflat, dlast []float32
	dacts                 [2][]float32
	cols, dcols           []float32
}

// newPass allocates a pass for up to the given numbers of frames and samples.
func newPass(n *net, frames, samples int) *pass {
	if samples > maxRows || frames > samples {
		panic("tiny: a pass has at most maxRows samples and no more images than samples")
	}
	f := func(size int) []float32 { return make([]float32, size) }
	h, w, c := n.lastSize()
	visual, in := n.visualFeatures(), n.hidden[0].in
	ps := &pass{
		net: n, frame: make([]int, samples), image: f(frames * side * side * 3), prob: f(frames * h * w * c),
		visual: f(frames * visual), flat: f(frames * n.Vision), in: f(samples * in),
		h0: f(samples * n.Hidden), h1: f(samples * n.Hidden), out: f(samples * n.outputs),
		dout: f(samples * n.outputs), dh1: f(samples * n.Hidden), dh0: f(samples * n.Hidden), din: f(samples * in),
		dvisual: f(frames * visual), dflat: f(frames * n.Vision), dlast: f(frames * h * w * c),
	}
	var cols, act int
	for _, v := range n.convs {
		ps.acts = append(ps.acts, f(frames*v.positions()*v.out))
		cols, act = max(cols, v.positions()*v.fan()), max(act, v.positions()*v.out)
	}
	ps.cols, ps.dcols = f(cols), f(cols)
	ps.dacts = [2][]float32{f(act), f(act)}
	return ps
}

// reset empties the pass.
func (ps *pass) reset() { ps.frames, ps.samples = 0, 0 }

// addImage adds an image (uint8 [side, side, 3]; nil: zeros) and returns its frame index. Bytes are
// mapped to -1 to 1.
func (ps *pass) addImage(image []byte) int {
	d := ps.image[ps.frames*side*side*3 : (ps.frames+1)*side*side*3]
	if image == nil {
		clear(d)
	}
	for i, b := range image {
		d[i] = float32(b)/127.5 - 1
	}
	ps.frames++
	return ps.frames - 1
}

// addSample adds a sample of frame f and returns its vector inputs for the caller to fill in.
func (ps *pass) addSample(f int) []float32 {
	i := ps.samples
	ps.frame[i] = f
	ps.samples++
	d := ps.net.hidden[0].in
	return ps.in[i*d+ps.net.visualFeatures() : (i+1)*d]
}

// result returns the network's outputs for sample i. gradient returns the slice to which the head adds
// the loss's derivative by them.
func (ps *pass) result(i int) []float32   { return ps.out[i*ps.net.outputs : (i+1)*ps.net.outputs] }
func (ps *pass) gradient(i int) []float32 { return ps.dout[i*ps.net.outputs : (i+1)*ps.net.outputs] }

// forward computes the outputs of all samples with parameters p.
func (ps *pass) forward(p []float32) {
	n := ps.net
	h, w, c := n.lastSize()
	area := h * w * c
	lastAct := ps.acts[len(ps.acts)-1]
	for f := range ps.frames {
		x := ps.image[f*side*side*3 : (f+1)*side*side*3]
		for i, v := range n.convs {
			size := v.positions() * v.out
			y := ps.acts[i][f*size : (f+1)*size]
			v.forward(p, x, y, ps.cols)
			relu(y)
			x = y
		}
		spatialSoftmax(x, ps.visual[f*n.visualFeatures():], ps.prob[f*area:(f+1)*area], h, w, c)
	}
	n.flatten.forward(p, lastAct, ps.flat, ps.frames)
	relu(ps.flat[:ps.frames*n.Vision])
	for f := range ps.frames {
		copy(ps.visual[f*n.visualFeatures()+2*c:(f+1)*n.visualFeatures()], ps.flat[f*n.Vision:(f+1)*n.Vision])
	}
	d := n.hidden[0].in
	for i := range ps.samples {
		f := ps.frame[i]
		copy(ps.in[i*d:], ps.visual[f*n.visualFeatures():(f+1)*n.visualFeatures()])
	}
	n.hidden[0].forward(p, ps.in, ps.h0, ps.samples)
	relu(ps.h0[:ps.samples*n.Hidden])
	n.hidden[1].forward(p, ps.h0, ps.h1, ps.samples)
	relu(ps.h1[:ps.samples*n.Hidden])
	n.output.forward(p, ps.h1, ps.out, ps.samples)
	blas32.Gemm(
		blas.NoTrans,
		blas.Trans,
		1,
		ps.vectors(),
		matrix(p[n.skip:], n.outputs, n.vectorInputs()),
		1,
		matrix(ps.out, ps.samples, n.outputs),
	)
}

// vectors is the view of the samples' vector inputs, [samples, vectorInputs].
func (ps *pass) vectors() blas32.General {
	n := ps.net
	return blas32.General{
		Rows:   ps.samples,
		Cols:   n.vectorInputs(),
		Stride: n.hidden[0].in,
		Data:   ps.in[n.visualFeatures():],
	}
}

// backward adds the gradient by the parameters p to g, given dout of every sample.
func (ps *pass) backward(p, g []float32) {
	n := ps.net
	h, w, c := n.lastSize()
	area := h * w * c
	lastAct := ps.acts[len(ps.acts)-1]
	blas32.Gemm(
		blas.Trans,
		blas.NoTrans,
		1,
		matrix(ps.dout, ps.samples, n.outputs),
		ps.vectors(),
		1,
		matrix(g[n.skip:], n.outputs, n.vectorInputs()),
	)
	n.output.backward(p, g, ps.h1, ps.dout, ps.dh1, ps.samples)
	reluBackward(ps.h1[:ps.samples*n.Hidden], ps.dh1)
	n.hidden[1].backward(p, g, ps.h0, ps.dh1, ps.dh0, ps.samples)
	reluBackward(ps.h0[:ps.samples*n.Hidden], ps.dh0)
	n.hidden[0].backward(p, g, ps.in, ps.dh0, ps.din, ps.samples)
	clear(ps.dvisual[:ps.frames*n.visualFeatures()])
	d := n.hidden[0].in
	for i := range ps.samples {
		addRows(ps.dvisual[ps.frame[i]*n.visualFeatures():(ps.frame[i]+1)*n.visualFeatures()], ps.din[i*d:], 1)
	}
	for f := range ps.frames {
		copy(ps.dflat[f*n.Vision:(f+1)*n.Vision], ps.dvisual[f*n.visualFeatures()+2*c:(f+1)*n.visualFeatures()])
	}
	reluBackward(ps.flat[:ps.frames*n.Vision], ps.dflat)
	n.flatten.backward(p, g, lastAct, ps.dflat, ps.dlast, ps.frames)
	for f := range ps.frames {
		dy := ps.dlast[f*area : (f+1)*area]
		spatialSoftmaxBackward(
			ps.visual[f*n.visualFeatures():],
			ps.dvisual[f*n.visualFeatures():],
			ps.prob[f*area:(f+1)*area],
			dy,
			h,
			w,
			c,
		)
		for i := len(n.convs) - 1; i >= 0; i-- {
			v := n.convs[i]
			size := v.positions() * v.out
			reluBackward(ps.acts[i][f*size:(f+1)*size], dy[:size])
			var x, dx []float32
			if i == 0 {
				x = ps.image[f*side*side*3:] // the gradient by the image is not needed
			} else {
				before := v.h * v.w * v.in
				x, dx = ps.acts[i-1][f*before:], ps.dacts[i%2][:before]
			}
			v.backward(p, g, x, dy, dx, ps.cols, ps.dcols)
			dy = dx
		}
	}
}

// workers runs f(worker, i) for i in 0..n-1 on all cores. The worker index only selects memory; it must
// not change results.
func workers(n int, f func(worker, i int)) {
	w := min(runtime.GOMAXPROCS(0), n)
	if w <= 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	var next atomic.Int64
	run := func(k int) {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			f(k, i)
		}
	}
	var wg sync.WaitGroup
	for k := 1; k < w; k++ {
		wg.Go(func() { run(k) })
	}
	run(0)
	wg.Wait()
}
