// How a score becomes an attention weight, and how that differentiates: all that distinguishes the kinds.
//
// Compiled with
//   -DHEAD=D         width of a head
//   -DKIND=0..7      0 softmax, 1 gaussian, 2 gaussian-poly-N, pointwise: 3 gelu (erf), 4 relu, 5 sigmoid,
//                    6 square, 7 relu-square
//   -DPOLY=N         squarings of gaussian-poly-N (0 for other kinds)
//   -DCLAMP=0|1      gaussian-poly-N: a weight is 0 where 1 + z / 2^N is negative
//   -DDROPOUT=0|1    whether weights are dropped (0 for decoding)
