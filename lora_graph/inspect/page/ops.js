// What kind of work an op does: its colour.

const CATEGORIES = {
  contraction: `MatMul Gemm AddMatMul Einsum Conv ConvTranspose ConvWeightGradient LSTM GRU RNN Attention
    MatMulInteger QLinearMatMul QLinearConv ConvInteger FusedMatMul MatMulNBits`,
  activation: `Relu LeakyRelu PRelu Elu Selu Celu Gelu Sigmoid HardSigmoid Tanh Softplus Softsign Softmax
    LogSoftmax SafeSoftmax Swish HardSwish Mish ThresholdedRelu Erf Dropout`,
  normalization: `LayerNormalization BatchNormalization GroupNormalization InstanceNormalization
    RMSNormalization LpNormalization MeanVarianceNormalization SimplifiedLayerNormalization
    SkipLayerNormalization LRN`,
  elementwise: `Abs Add And Ceil Clip Cos Div Equal Exp Floor Greater GreaterOrEqual IsInf IsNaN Less
    LessOrEqual Log Max Mean Min Mod Mul Neg Not Or Pow Reciprocal RotaryEmbedding Round Sign Sin Sqrt Sub Sum
    Tan Trilu Where Xor`,
  shape: `Cast Concat ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity OneHot
    Pad Project Range Reshape ReshapeLike Resize ScatterElements ScatterND Shape Size Slice SliceTo Split
    Squeeze StopGradient Tile Transpose Unsqueeze After`,
  reduction: `ArgMax ArgMin AveragePool CumSum GlobalAveragePool GlobalMaxPool MaxPool MaxPoolIndices
    NegativeLogLikelihoodLoss ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare ReduceVariance SoftmaxCrossEntropyLoss SumTo TopK`,
};
const CATEGORY = new Map(Object.entries(CATEGORIES).flatMap(([name, ops]) => ops.split(/\s+/).map((op) => [op, name])));
