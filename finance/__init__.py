"""Visual finance: candlestick pictures of markets, portfolios and their back-tests."""
